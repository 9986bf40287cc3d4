//! Stacked bars over time as numbers ready for an SVG template: positions in percent of the width, so that one drawing
//! fits every screen and its text keeps its size.

use crate::domain::Money;

use super::format;

/// Series drawn apart before the rest becomes "Other".
pub const MAX_SERIES: usize = 7;
/// Height of the drawing in pixels, and of its parts.
const HEIGHT: u32 = 220;
const TOP: u32 = 14;
const BOTTOM: u32 = 24;

/// What is drawn: a table of values by slot and series.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Names of the series, dearest first.
    pub series: Vec<String>,
    pub columns: Vec<InputColumn>,
    /// Values are money (10⁻¹⁵ USD), else counts.
    pub is_money: bool,
}

/// One bar: its label, where it leads, and its values by series.
#[derive(Clone, Debug)]
pub struct InputColumn {
    pub label: String,
    pub href: String,
    pub values: Vec<i128>,
}

/// A drawing.
#[derive(Clone, Debug)]
pub struct Chart {
    pub series: Vec<Series>,
    pub columns: Vec<Column>,
    pub grid: Vec<GridLine>,
    pub x_labels: Vec<Label>,
    pub baseline: String,
    pub height: u32,
    pub unit: &'static str,
    /// What the picture says, in a sentence.
    pub description: String,
}

#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// 0 to 7: class of colour and pattern; 7 is "Other".
    pub class: usize,
    pub total: String,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub label: String,
    pub href: String,
    pub total: String,
    pub marks: Vec<Mark>,
    pub x: String,
    pub width: String,
    /// Values by series as text, for the table.
    pub cells: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Mark {
    pub class: usize,
    pub y: String,
    pub height: String,
    pub title: String,
}

#[derive(Clone, Debug)]
pub struct GridLine {
    pub y: String,
    pub label: String,
}

#[derive(Clone, Debug)]
pub struct Label {
    pub x: String,
    pub text: String,
    pub anchor: &'static str,
    /// Left out where the drawing is narrow.
    pub spare: bool,
}

/// Draws. Negative values (corrections) count as nothing in the picture; the table has them.
pub fn stacked(input: Input) -> Chart {
    let input = fold(input);
    let text = |v: i128| amount(v, input.is_money);
    let totals: Vec<i128> = input.columns.iter().map(|c| c.values.iter().map(|v| (*v).max(0)).sum()).collect();
    let (top, step) = scale(totals.iter().copied().max().unwrap_or(0), input.is_money);
    let plot = HEIGHT - TOP - BOTTOM;
    let y_of = |v: i128| f64::from(TOP + plot) - ratio(v, top) * f64::from(plot);
    let width = 100.0 / input.columns.len().max(1) as f64;
    let other = input.series.len() > MAX_SERIES;

    let columns = input.columns.iter().enumerate().map(|(i, column)| {
        let mut below = 0;
        let marks = column.values.iter().enumerate().filter(|(_, v)| **v > 0).map(|(s, v)| {
            let (y0, y1) = (y_of(below), y_of(below + v));
            below += v;
            Mark {
                class: if other && s == MAX_SERIES { 7 } else { s },
                y: format!("{y1:.1}"),
                height: format!("{:.1}", (y0 - y1).max(0.6)),
                title: format!("{}, {}: {}", column.label, input.series[s], text(*v)),
            }
        });
        Column {
            label: column.label.clone(),
            href: column.href.clone(),
            marks: marks.collect(),
            total: text(column.values.iter().sum()),
            x: format!("{:.3}%", width * i as f64 + width * 0.12),
            width: format!("{:.3}%", width * 0.76),
            cells: column.values.iter().map(|v| text(*v)).collect(),
        }
    });
    let columns: Vec<Column> = columns.collect();
    let series = input.series.iter().enumerate().map(|(s, name)| Series {
        name: name.clone(),
        class: if other && s == MAX_SERIES { 7 } else { s },
        total: text(input.columns.iter().map(|c| c.values[s]).sum()),
    });
    let grid = (1..)
        .map(|n| step * n)
        .take_while(|v| *v <= top)
        .map(|v| GridLine { y: format!("{:.1}", y_of(v)), label: axis(v, input.is_money) });
    Chart {
        series: series.collect(),
        grid: grid.collect(),
        x_labels: x_labels(&input.columns, width),
        baseline: format!("{:.1}", y_of(0)),
        height: HEIGHT,
        unit: if input.is_money { "USD" } else { "" },
        description: describe(&input, &totals),
        columns,
    }
}

/// Keeps the first seven series and adds the others up.
fn fold(mut input: Input) -> Input {
    if input.series.len() > MAX_SERIES {
        let more = input.series.len() - MAX_SERIES;
        input.series.truncate(MAX_SERIES);
        input.series.push(format!("Other ({more})"));
        for column in &mut input.columns {
            let rest = column.values.split_off(MAX_SERIES).into_iter().sum();
            column.values.push(rest);
        }
    }
    input
}

fn ratio(v: i128, top: i128) -> f64 {
    if top == 0 { 0.0 } else { v as f64 / top as f64 }
}

/// The axis' end and its step: 1, 2 or 5 times a power of ten, three to five lines.
fn scale(max: i128, is_money: bool) -> (i128, i128) {
    let least = if is_money { 1_000_000_000 } else { 1 };
    let max = max.max(least);
    let mut step = least;
    'search: loop {
        for factor in [1, 2, 5] {
            if step * factor * 4 >= max {
                step *= factor;
                break 'search;
            }
        }
        step *= 10;
    }
    (step * ((max + step - 1) / step), step)
}

fn axis(v: i128, is_money: bool) -> String {
    if !is_money {
        return format::short_count(u64::try_from(v).unwrap_or(u64::MAX));
    }
    let cents = Money::usd(1).0 / 100;
    if v >= Money::usd(1_000).0 {
        format::short_count(u64::try_from(v / Money::usd(1).0).unwrap_or(u64::MAX))
    } else if v % Money::usd(1).0 == 0 {
        (v / Money::usd(1).0).to_string()
    } else if v % cents == 0 {
        Money(v).rounded(2)
    } else {
        Money(v).to_string()
    }
}

fn amount(v: i128, is_money: bool) -> String {
    if is_money { format::money(Money(v)) } else { format::count(u64::try_from(v).unwrap_or(0)) }
}

/// At most six labels under the middle of their bars, evenly spaced, the last within the drawing; on a narrow screen
/// every second one goes, so that neither dates nor `Nov 2026` touch.
fn x_labels(columns: &[InputColumn], width: f64) -> Vec<Label> {
    let every = columns.len().div_ceil(6).max(1);
    let many = columns.len().div_ceil(every) > 3;
    let label = |(i, c): (usize, &InputColumn)| {
        let centre = width * (i as f64 + 0.5);
        // To the left there is room under the axis; to the right there is none.
        let (x, anchor) = if centre > 94.0 { (width * (i as f64 + 1.0), "end") } else { (centre, "middle") };
        let spare = many && (i / every) % 2 == 1;
        Label { x: format!("{x:.3}%"), text: c.label.clone(), anchor, spare }
    };
    columns.iter().enumerate().filter(|(i, _)| i.is_multiple_of(every)).map(label).collect()
}

fn describe(input: &Input, totals: &[i128]) -> String {
    let unit = if input.is_money { "USD " } else { "" };
    let text = |v: i128| format!("{unit}{}", amount(v, input.is_money));
    let Some((peak, highest)) = totals.iter().enumerate().max_by_key(|(i, v)| (**v, usize::MAX - i)) else {
        return "Nothing in this range.".to_owned();
    };
    if *highest == 0 {
        return "Nothing in this range.".to_owned();
    }
    let column = &input.columns[peak];
    let most = column.values.iter().enumerate().max_by_key(|(i, v)| (**v, usize::MAX - i)).map_or(0, |(s, _)| s);
    format!(
        "{} in all over {} columns; highest {} with {}, most of it {}.",
        text(totals.iter().sum()),
        totals.len(),
        column.label,
        text(*highest),
        input.series[most]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(series: usize, columns: Vec<Vec<i128>>) -> Input {
        let column = |(i, values): (usize, Vec<i128>)| InputColumn { label: format!("{i}"), href: "/".into(), values };
        Input {
            series: (0..series).map(|s| format!("s{s}")).collect(),
            columns: columns.into_iter().enumerate().map(column).collect(),
            is_money: false,
        }
    }

    #[test]
    fn an_axis_ends_on_a_round_number_above_the_highest_bar() {
        assert_eq!(scale(7, false), (8, 2));
        assert_eq!(scale(100, false), (100, 50));
        assert_eq!(scale(101, false), (150, 50));
        assert_eq!(scale(0, false), (1, 1));
        for max in [1, 3, 9, 11, 999, 12_345_678] {
            let (top, step) = scale(max, false);
            assert!(top >= max && top % step == 0 && top / step <= 5, "{max}: {top} {step}");
        }
    }

    #[test]
    fn the_eighth_series_and_those_after_it_become_other() {
        let chart = stacked(input(9, vec![vec![1; 9]]));
        assert_eq!(chart.series.len(), 8);
        assert_eq!(chart.series[7].name, "Other (2)");
        assert_eq!(chart.columns[0].cells[7], "2");
        assert_eq!(chart.columns[0].total, "9");
    }

    #[test]
    fn bars_stand_on_each_other_and_on_the_line() {
        let chart = stacked(input(2, vec![vec![50, 50], vec![0, 25]]));
        let bottom: f64 = chart.baseline.parse().unwrap();
        let mark = &chart.columns[0].marks;
        let (y, h): (f64, f64) = (mark[0].y.parse().unwrap(), mark[0].height.parse().unwrap());
        assert!((y + h - bottom).abs() < 0.11);
        let (y2, h2): (f64, f64) = (mark[1].y.parse().unwrap(), mark[1].height.parse().unwrap());
        assert!((y2 + h2 - y).abs() < 0.11);
        assert_eq!(chart.columns[1].marks.len(), 1);
        assert!(chart.description.contains("highest 0 with 100"));
    }

    #[test]
    fn labels_never_come_closer_than_a_sixth_and_a_phone_gets_every_second() {
        for columns in [1, 4, 7, 24, 30, 31, 92, 365] {
            let chart = stacked(input(1, vec![vec![1]; columns]));
            let x: Vec<f64> = chart.x_labels.iter().map(|l| l.x.trim_end_matches('%').parse().unwrap()).collect();
            assert!(!x.is_empty() && x.len() <= 6, "{columns}: {x:?}");
            assert!(x.windows(2).all(|w| w[1] - w[0] > 15.9), "{columns}: {x:?}");
            let kept = chart.x_labels.iter().filter(|l| !l.spare).count();
            assert!(kept <= 3 && kept >= x.len() / 2, "{columns}: {kept} of {}", x.len());
        }
    }

    #[test]
    fn an_empty_chart_says_so() {
        assert_eq!(stacked(input(0, vec![])).description, "Nothing in this range.");
        assert_eq!(stacked(input(1, vec![vec![0]])).description, "Nothing in this range.");
    }
}
