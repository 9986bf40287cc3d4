//! Where a budget is going: what `GET budgets/{id}` adds to the budget itself.

use serde_json::{Value, json};

use crate::domain::{Budget, Metric, Money};
use crate::report::{self, AlertFilter, Outlook};

use super::alerts::AlertView;
use super::{Api, ApiError};

/// Alerts of a budget that are shown with it.
const ALERTS: usize = 50;

/// Adds the forecast with its interval and method, burn rate and days left, and the newest alerts.
pub(super) fn add(api: &Api, budget: &Budget, value: &mut Value) -> Result<(), ApiError> {
    let now = api.ledger.clock().now();
    let outlook = report::forecast(&api.ledger, budget, now)?;
    let unit = match outlook.metric {
        Metric::Usd => "usd",
        Metric::Tokens => "tokens",
        Metric::Calls => "calls",
        Metric::ToolCalls => "tool_calls",
    };
    let show = |n: i128| if outlook.metric == Metric::Usd { Money(n).to_string() } else { n.to_string() };
    let Outlook { forecast, burn_rate, exhausted_at, as_of, .. } = &outlook;
    match forecast {
        Ok(f) => {
            value[format!("forecast_{unit}")] = show(f.amount).into();
            value["forecast"] = json!({
                "low": show(f.low), "high": show(f.high), "method": f.method.name(), "words": f.method.words(),
                "as_of": as_of.at, "as_of_seq": as_of.seq,
            });
        }
        Err(why) => {
            value[format!("forecast_{unit}")] = Value::Null;
            value["forecast"] = json!({ "none_because": why.to_string(), "as_of": as_of.at, "as_of_seq": as_of.seq });
        }
    }
    value[format!("burn_rate_{unit}")] = burn_rate.map(show).into();
    value["exhausted_at"] = exhausted_at.map(|at| at.to_string()).into();
    value["days_left"] = outlook.days_left(now).into();
    let filter = AlertFilter { budget: Some(budget.id.clone()), ..AlertFilter::default() };
    let alerts = report::alerts(&api.ledger, &filter, None, ALERTS)?.alerts;
    let catalogue = api.ledger.catalogue();
    let views: Vec<AlertView> = alerts.iter().map(|row| AlertView::of(row, &catalogue)).collect();
    value["alerts"] = json!(views);
    Ok(())
}
