//! The plots: what each takes of the processor, as multiples of what Postern takes, and the course of Postern's own cost
//! over bindings and streams. Colours follow the reader's scheme, light or dark.

use super::report::{Measured, Results, Summary};
use super::subject::{ALL, Subject};
use super::targets::grouped;
use super::workload::Workload;

const WIDTH: f64 = 760.0;
/// Where bars begin, and how long one of `MOST` times Postern's is.
const LEFT: f64 = 150.0;
const LENGTH: f64 = 470.0;
/// Longer bars are cut, and say their figure.
const MOST: f64 = 4.0;
const BAR: f64 = 15.0;

const STYLE: &str = "<style>\
    .paper{fill:#ffffff}text{fill:#1c2126;stroke:#ffffff;stroke-width:3;paint-order:stroke;stroke-linejoin:round}.faint{fill:#5b6670}.postern{fill:#1f7a5c}.other{fill:#aeb9c4}\
    .range{stroke:#1c2126}.rule{stroke:#8a949e}.course{stroke:#1f7a5c;fill:none;stroke-width:2}\
    @media (prefers-color-scheme:dark){.paper{fill:#0d1117}text{fill:#e6edf3;stroke:#0d1117}.faint{fill:#9aa5b1}.postern{fill:#3fb68b}\
    .other{fill:#56616c}.range{stroke:#e6edf3}.rule{stroke:#6e7681}.course{stroke:#3fb68b}}\
    </style>";

fn document(height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n{STYLE}\n<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n"
    )
}

/// Text as it stands in SVG; `class` is one of the style's, or none.
fn text(x: f64, y: f64, anchor: &str, class: &str, content: &str) -> String {
    let weight = if class == "title" { " font-weight=\"bold\"" } else { "" };
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\"{weight}>{content}</text>\n")
}

fn line(class: &str, from: (f64, f64), to: (f64, f64), more: &str) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"{more}/>\n")
}

/// What is said of a smoke run in place of a title.
fn title<'a>(results: &Results, title: &'a str) -> &'a str {
    if results.quick { "A smoke run: proves nothing about speed" } else { title }
}

/// performance.svg: a bar for each that was measured beside Postern.
pub fn bars(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 42.0;
    for measured in &results.measured {
        let bars = of(measured);
        if bars.len() < 2 {
            continue;
        }
        let name = format!("{}, CPU per {}", measured.workload.name, measured.workload.unit());
        body.push_str(&text(8.0, y + 12.0, "start", "title", &name));
        y += 20.0;
        for (subject, times) in bars {
            body.push_str(&bar(subject, times, y));
            y += BAR + 3.0;
        }
        y += 10.0;
    }
    let mark = LEFT + LENGTH / MOST;
    let head = [
        text(8.0, 18.0, "start", "title", title(results, "Processor time of the proxy, Postern's = 1")),
        text(8.0, 34.0, "start", "faint", "shorter is better; the thin line: least to greatest of the rounds"),
        line("rule", (mark, 40.0), (mark, y), " stroke-dasharray=\"3 3\""),
    ];
    document(y, &(head.concat() + &body))
}

/// Postern is 1 by definition; its bar is there to compare with.
fn of(measured: &Measured) -> Vec<(Subject, Summary)> {
    let one = |subject| Some((subject, measured.ratio(subject, Subject::Postern, "cpu_us")?));
    ALL.into_iter().filter_map(one).collect()
}

fn bar(subject: Subject, times: Summary, y: f64) -> String {
    let Summary { least, median, greatest } = times;
    let at = |times: f64| LEFT + times.clamp(0.0, MOST) * LENGTH / MOST;
    let class = if subject == Subject::Postern { "postern" } else { "other" };
    let middle = y + BAR / 2.0;
    let cut = if median > MOST { ", cut" } else { "" };
    let (width, from, to) = (at(median) - LEFT, at(least), at(greatest));
    let range = if least == greatest { String::new() } else { format!(" [{least:.2}-{greatest:.2}]") };
    let label = format!("{median:.2}{range}{cut}");
    [
        text(LEFT - 8.0, y + 12.0, "end", "", subject.name()),
        format!("<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\"/>\n"),
        line("range", (from, middle), (to, middle), ""),
        text(to.max(at(median)) + 6.0, y + 12.0, "start", "", &label),
    ]
    .concat()
}

/// How many there are of what, and what one took.
type Points = Vec<(usize, Summary)>;

/// Of one plot of the course.
struct Panel {
    left: f64,
    title: &'static str,
    under: &'static str,
    /// One or more courses, and what each is of.
    courses: Vec<(&'static str, Points)>,
}

const TOP: f64 = 56.0;
const TALL: f64 = 190.0;
const WIDE: f64 = 290.0;

/// performance-course.svg: Postern's cost over its bindings, and over its streams.
pub fn courses(results: &Results) -> String {
    let points = |place: &dyn Fn(&Workload) -> Option<usize>| {
        let point = |one: &Measured| Some((place(&one.workload)?, one.summary(Subject::Postern, "cpu_us")?));
        let mut points: Points = results.measured.iter().filter_map(point).collect();
        points.sort_by_key(|(place, _)| *place);
        points
    };
    let streams = |rate| {
        points(&move |workload: &Workload| {
            workload.streams().filter(|(_, events)| *events == rate).map(|(count, _)| count)
        })
    };
    let bindings = Panel {
        left: 60.0,
        title: "CPU us per request",
        under: "bindings, called in turn",
        courses: vec![("", points(&|workload| workload.is_curve().then_some(workload.bindings)))],
    };
    let events = Panel {
        left: 430.0,
        title: "CPU us per event",
        under: "open event streams",
        courses: vec![("1,000/s", streams(1000)), ("5,000/s", streams(5000))],
    };
    let head = text(8.0, 18.0, "start", "title", title(results, "What one costs Postern, over how many there are"));
    document(TOP + TALL + 50.0, &(head + &bindings.draw() + &events.draw()))
}

/// Where in a panel a point is.
struct Scale {
    left: f64,
    first: usize,
    decades: f64,
    top: f64,
}

impl Scale {
    fn x(&self, place: usize) -> f64 {
        self.left + 20.0 + (place as f64 / self.first as f64).log10() / self.decades * (WIDE - 60.0)
    }

    fn y(&self, cost: f64) -> f64 {
        TOP + TALL - cost / self.top * TALL
    }
}

impl Panel {
    fn draw(&self) -> String {
        let all = || self.courses.iter().flat_map(|(_, points)| points);
        let mut places: Vec<usize> = all().map(|(place, _)| *place).collect();
        places.sort_unstable();
        places.dedup();
        let (Some(&first), Some(&last)) = (places.first(), places.last()) else { return String::new() };
        let most = all().map(|(_, cost)| cost.greatest).fold(0.0, f64::max).max(0.001);
        let decades = (last as f64 / first as f64).log10().max(1.0);
        let scale = Scale { left: self.left, first, decades, top: ceiling(most) };

        let (bottom, right) = (TOP + TALL, self.left + WIDE);
        let mut body = text(self.left, TOP - 14.0, "start", "", self.title);
        for part in 0..=4 {
            let cost = scale.top * f64::from(part) / 4.0;
            let y = scale.y(cost);
            body.push_str(&line("rule", (self.left, y), (right, y), " stroke-opacity=\"0.35\""));
            body.push_str(&text(self.left - 6.0, y + 4.0, "end", "faint", &round(cost)));
        }
        for place in places {
            body.push_str(&text(scale.x(place), bottom + 18.0, "middle", "faint", &grouped(place as u64)));
        }
        body.push_str(&text(self.left + WIDE / 2.0, bottom + 38.0, "middle", "faint", self.under));
        self.courses.iter().for_each(|(name, points)| body.push_str(&course(name, points, &scale)));
        body
    }
}

/// A line, its points with their figures, and its name behind the last one.
fn course(name: &str, points: &Points, scale: &Scale) -> String {
    let Some((last, end)) = points.last() else { return String::new() };
    let along: Vec<String> =
        points.iter().map(|(place, cost)| format!("{:.1},{:.1}", scale.x(*place), scale.y(cost.median))).collect();
    let mut body = format!("<polyline class=\"course\" points=\"{}\"/>\n", along.join(" "));
    for (place, cost) in points {
        let (x, y) = (scale.x(*place), scale.y(cost.median));
        body.push_str(&line("range", (x, scale.y(cost.least)), (x, scale.y(cost.greatest)), ""));
        body.push_str(&format!("<circle class=\"postern\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>\n"));
        body.push_str(&text(x, scale.y(cost.greatest) - 9.0, "middle", "", &round(cost.median)));
    }
    body + &text(scale.x(*last) + 9.0, scale.y(end.median) + 4.0, "start", "faint", name)
}

/// A round figure above this one, with room for what is written over it.
fn ceiling(most: f64) -> f64 {
    let step = 10_f64.powf((most * 1.15).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|steps| steps * step).find(|ceiling| *ceiling >= most * 1.15).unwrap_or(most)
}

fn round(cost: f64) -> String {
    if cost < 10.0 && cost > 0.0 { format!("{cost:.1}") } else { format!("{cost:.0}") }
}
