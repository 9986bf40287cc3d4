//! `report`: spend by any dimension.

use std::io::Write;

use clap::{Args, Subcommand};
use http::Method;

use super::calls::Form;
use super::client::{self, Reach};
use super::filters::{Filters, query};
use super::{Outcome, print_json, table};

#[derive(Debug, Args)]
pub struct Command {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What was spent, by up to four dimensions, dearest first
    Spend {
        /// Dimensions separated by commas: service, model, owner, business_unit, …
        #[arg(long, default_value = "service")]
        by: String,
        /// Cut into hours, days, weeks or months of the zone
        #[arg(long)]
        step: Option<String>,
        #[command(flatten)]
        filters: Box<Filters>,
        #[arg(long, value_enum, default_value_t = Form::Table)]
        format: Form,
        /// The same as --format json
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(self) -> Outcome {
        let Verb::Spend { by, step, filters, format, json } = self.verb;
        client::with(&self.reach, async move |client| {
            let mut pairs = vec![("by", by.clone())];
            pairs.extend(step.clone().map(|step| ("step", step)));
            pairs.extend(filters.pairs());
            let format = if json { Form::Json } else { format };
            if let Form::Csv | Form::Ndjson = format {
                let name = if format == Form::Csv { "csv" } else { "ndjson" };
                pairs.push(("format", name.to_owned()));
                return client.print(&format!("/spend{}", query(&pairs))).await;
            }
            let mut spend = client.json(Method::GET, &format!("/spend{}", query(&pairs)), None).await?;
            if format == Form::Json {
                return print_json(&spend);
            }
            let mut columns: Vec<&str> = by.split(',').filter(|name| !name.is_empty()).collect();
            columns.extend(step.is_some().then_some("bucket"));
            columns.extend([
                "calls",
                "refused",
                "failed",
                "usage.input_tokens",
                "usage.output_tokens",
                "cost_usd",
                "cost_basis",
            ]);
            let mut rows = spend["rows"].take().as_array().cloned().unwrap_or_default();
            let mut total = spend["total"].take();
            if let Some(first) = columns.first().copied() {
                total[first] = "total".into();
            }
            rows.push(total);
            table::print(&rows, &columns)?;
            let text = |name: &str| spend[name].as_str().unwrap_or("?").to_owned();
            writeln!(std::io::stderr(), "as of {} ({})", text("as_of"), text("tz"))?;
            Ok(())
        })
    }
}
