//! The page and the plots.

use crate::figures::{TIMES, add, measured, workload_of};
use crate::rig::report::{Machine, Results};
use crate::rig::round::{FIGURES, Figures};
use crate::rig::subject::Subject;
use crate::rig::{plot, table, workload};

/// A run of everything, with made-up figures.
fn everything() -> Results {
    let machine = Machine { binary_bytes: 1 << 20, ..Machine::default() };
    let mut all = Results::new(machine, false);
    for workload in workload::all() {
        for (number, subject) in workload.cast.iter().filter(|one| one.unfit(&workload).is_none()).enumerate() {
            for round in 0..subject.rounds(2) {
                let figures = FIGURES.map(|figure| (figure, 9.0 - number as f64 + round as f64 / 10.0));
                all.add(&workload, TIMES, *subject, Ok(Figures::from(figures)));
            }
        }
    }
    all
}

#[test]
fn the_page_of_a_whole_run_has_the_targets_first_and_then_every_workload() {
    let page = table::page(&everything());
    let first = page.find("## Targets").expect("there are targets");
    for workload in workload::all().iter().filter(|workload| workload.cast.len() > 1) {
        // Its heading, or where another table says that it is of it.
        let at = page.find(&format!("### {}", workload.name)).or_else(|| page.find(&format!("`{}`", workload.name)));
        assert!(at.is_some_and(|at| first < at), "{}", workload.name);
    }
    for known in ["## Course", "## Weight", "## broker-1000", "## Limits", "performance.svg", "performance-course.svg"]
    {
        assert!(page.contains(known), "no {known}");
    }
    assert!(!page.contains("not measured |"), "a target found nothing:\n{page}");
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    assert!(page.contains("| mitmproxy (one round) |"), "fewer rounds are told");
    assert!(page.contains("nginx: not here, it has no HTTP/2 upstream"));
}

#[test]
fn a_table_has_the_columns_that_its_header_has() {
    let page = table::page(&everything());
    let mut width = 0;
    for line in page.lines() {
        let cells = line.matches('|').count();
        if cells == 0 {
            width = 0;
        } else if width == 0 {
            width = cells;
        }
        assert_eq!(cells, width, "{line}");
    }
}

#[test]
fn a_smoke_run_and_a_busy_machine_are_told_before_anything_else() {
    let quiet = |percent| measured("small-h1", &[(Subject::Postern, "others_percent", &[Some(percent); 3])]);
    assert!(!table::page(&quiet(9.0)).contains("**The machine"));
    assert!(quiet(9.0).json().contains("\"provesSpeed\": true"));
    let mut all = quiet(12.0);
    assert!(table::page(&all).lines().nth(2).unwrap().contains("12 % of a core"));
    assert!(all.json().contains("\"provesSpeed\": false"), "{}", all.json());
    all.quick = true;
    assert!(table::page(&all).lines().nth(2).unwrap().contains("proves nothing about speed"));
}

#[test]
fn a_closed_loop_that_did_not_fill_the_core_is_marked_and_an_open_one_is_not() {
    let row = |name: &str, percent: f64| {
        let all = measured(name, &[(Subject::Nginx, "core_percent", &[Some(percent)])]);
        let page = table::page(&all);
        page.lines().find(|line| line.starts_with("| nginx |")).expect("it has a row").to_owned()
    };
    assert!(row("small-h1", 89.0).contains("89.0 †"));
    assert!(!row("small-h1", 91.0).contains('†'));
    assert!(!row("open-2000", 20.0).contains('†'));
}

#[test]
fn void_rounds_are_told_with_their_reason() {
    let page = table::page(&measured("small-h1", &[(Subject::Envoy, "cpu_us", &[Some(1.0), None, None])]));
    assert!(page.contains("envoy: 2 rounds do not count (it leaked)"), "{page}");
}

#[test]
fn plots_have_a_bar_for_each_and_a_point_for_each_place_of_the_course() {
    let all = everything();
    let (bars, courses) = (plot::bars(&all), plot::courses(&all));
    assert_eq!(bars.matches("<rect class=\"postern\"").count(), bars.matches("CPU per").count());
    assert!(bars.matches("<rect class=\"other\"").count() > bars.matches("<rect class=\"postern\"").count());
    let points = workload::all().iter().filter(|one| one.is_curve() || one.streams().is_some()).count();
    assert_eq!(courses.matches("<circle").count(), points);
    assert_eq!(courses.matches("<polyline").count(), 3, "streams at 1,000 and at 5,000 events a second do not compare");
    for plot in [bars, courses] {
        assert!(plot.contains("prefers-color-scheme:dark"));
        assert!(!plot.contains("NaN") && !plot.contains("inf"), "{plot}");
    }
}

#[test]
fn a_plot_of_little_or_nothing_is_one_still() {
    let mut all = Results::new(Machine::default(), false);
    assert!(plot::courses(&all).ends_with("</svg>\n"));
    add(&mut all, "bindings-1", &[(Subject::Postern, "cpu_us", &[Some(0.0)])]);
    assert!(!plot::courses(&all).contains("NaN"), "{}", plot::courses(&all));
    assert_eq!(workload_of("bindings-1").bindings, 1);
}
