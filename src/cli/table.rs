//! Tables for terminals: text to the left, figures to the right, nothing drawn.

use std::io::Write;

use serde_json::Value;

use super::Failure;

/// Widest cell; what is longer is cut, as `--json` has it whole.
const WIDEST: usize = 48;

/// Prints the rows of an array under their columns' names. A column may be a path such as `refusal.code`.
pub fn print(rows: &[Value], columns: &[&str]) -> Result<(), Failure> {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| columns.iter().map(|c| cell(row, c)).collect()).collect();
    let width = |n: usize| {
        let longest = cells.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
        longest.max(columns[n].chars().count())
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let figures: Vec<bool> = (0..columns.len())
        .map(|n| cells.iter().any(|r| !r[n].is_empty()) && cells.iter().all(|r| figure(&r[n])))
        .collect();
    let mut out = std::io::stdout().lock();
    let header: Vec<String> = columns.iter().map(|c| c.to_uppercase()).collect();
    for row in std::iter::once(&header).chain(&cells) {
        let mut line = String::new();
        for (n, text) in row.iter().enumerate() {
            let pad = " ".repeat(widths[n] - text.chars().count());
            let (before, after) = if figures[n] { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.push_str(&format!("{before}{text}{after}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints one object, a field a line.
pub fn print_one(value: &Value) -> Result<(), Failure> {
    let Some(fields) = value.as_object() else { return Ok(()) };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for (name, field) in fields.iter().filter(|(_, field)| !field.is_null()) {
        let text = match field {
            Value::String(text) => clean(text),
            other => other.to_string(),
        };
        writeln!(out, "{name:width$}  {text}")?;
    }
    Ok(())
}

fn cell(row: &Value, column: &str) -> String {
    let value = column.split('.').try_fold(row, |value, name| value.get(name)).unwrap_or(&Value::Null);
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text),
        Value::Array(items) => {
            items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), clean)).collect::<Vec<_>>().join(",")
        }
        Value::Object(pairs) => {
            pairs.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    if text.chars().count() <= WIDEST { text } else { text.chars().take(WIDEST - 1).chain(['…']).collect() }
}

/// What callers sent must not drive the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

fn figure(text: &str) -> bool {
    text.is_empty()
        || (text.bytes().any(|b| b.is_ascii_digit())
            && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'))
            && text.matches('-').count() <= 1)
}
