//! The plot: what each takes of the processor, as multiples of what Postern takes.

use super::report::{Measured, Results, Summary};
use super::subject::{ALL, Subject};

const WIDTH: f64 = 760.0;
/// Where bars begin, and how long one of `MOST` times Postern's is.
const LEFT: f64 = 150.0;
const LENGTH: f64 = 480.0;
/// Longer bars are cut, and say their figure.
const MOST: f64 = 4.0;
const BAR: f64 = 15.0;

/// One bar: whose, and how long.
struct Bar {
    subject: Subject,
    times: Summary,
}

/// performance.svg.
pub fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 34.0;
    for measured in results.measured.iter().filter(|measured| !measured.workload.is_curve()) {
        let bars = bars(measured);
        if bars.is_empty() {
            continue;
        }
        let name = measured.workload.name;
        body.push_str(&text(8.0, y + 12.0, "start", "bold", &format!("{name}, per {}", measured.workload.unit())));
        y += 20.0;
        for bar in bars {
            body.push_str(&one(&bar, y));
            y += BAR + 3.0;
        }
        y += 10.0;
    }
    let title = if results.quick {
        "A smoke run: proves nothing about speed"
    } else {
        "Processor time of the proxy, Postern's = 1; the line: least to greatest of the rounds"
    };
    let mark = LEFT + LENGTH / MOST;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#ffffff\"/>\n{}\
         <line x1=\"{mark}\" y1=\"28\" x2=\"{mark}\" y2=\"{y}\" stroke=\"#999999\" stroke-dasharray=\"3 3\"/>\n{body}</svg>\n",
        text(8.0, 18.0, "start", "bold", title),
    )
}

/// Postern is 1 by definition; its bar is there to compare with.
fn bars(measured: &Measured) -> Vec<Bar> {
    let one = |subject| {
        let times = measured.ratio(subject, Subject::Postern, "cpu_us")?;
        Some(Bar { subject, times })
    };
    ALL.into_iter().filter_map(one).collect()
}

fn one(bar: &Bar, y: f64) -> String {
    let Summary { least, median, greatest } = bar.times;
    let at = |times: f64| LEFT + times.clamp(0.0, MOST) * LENGTH / MOST;
    let colour = if bar.subject == Subject::Postern { "#1f6f54" } else { "#b9c4cf" };
    let middle = y + BAR / 2.0;
    let cut = if median > MOST { ", cut" } else { "" };
    let (width, from, to) = (at(median) - LEFT, at(least), at(greatest));
    let range = if least == greatest { String::new() } else { format!(" [{least:.2}-{greatest:.2}]") };
    let label = format!("{median:.2}{range}{cut}");
    format!(
        "{}<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
         <line x1=\"{from:.1}\" y1=\"{middle}\" x2=\"{to:.1}\" y2=\"{middle}\" stroke=\"#222222\"/>\n{}",
        text(LEFT - 8.0, y + 12.0, "end", "normal", bar.subject.name()),
        text(to.max(at(median)) + 6.0, y + 12.0, "start", "normal", &label),
    )
}

fn text(x: f64, y: f64, anchor: &str, weight: &str, content: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\">{content}</text>\n")
}
