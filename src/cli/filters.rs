//! The filters of `calls` and `report`: one option per dimension, the same words as everywhere.

use clap::Args;

use super::client::escaped;

macro_rules! filters {
    ($($field:ident = $name:literal;)*) => {
        /// Which calls. `a*` is a glob, `!a` excludes, `(none)` is the absence of a value; repeated = any of them
        #[derive(Debug, Args)]
        #[command(next_help_heading = "Filters")]
        pub struct Filters {
            $(
                #[arg(long = $name, value_name = "VALUE")]
                $field: Vec<String>,
            )*
            /// Start, inclusive: a date (2026-11-01, in the zone) or an instant (2026-11-01T00:00:00Z)
            #[arg(long)]
            from: Option<String>,
            /// End, exclusive
            #[arg(long)]
            to: Option<String>,
            /// IANA name; default: the organisation's
            #[arg(long)]
            tz: Option<String>,
        }

        impl Filters {
            /// As the query of a URL: pairs of name and value.
            pub fn pairs(&self) -> Vec<(&'static str, String)> {
                let mut pairs = Vec::new();
                $( pairs.extend(self.$field.iter().map(|value| ($name, value.clone()))); )*
                // Options are written with dashes, parameters with underscores.
                let mut pairs: Vec<(&'static str, String)> =
                    pairs.into_iter().map(|(name, value)| (parameter(name), value)).collect();
                for (name, value) in [("from", &self.from), ("to", &self.to), ("tz", &self.tz)] {
                    pairs.extend(value.clone().map(|value| (name, value)));
                }
                pairs
            }
        }
    };
}

filters! {
    tenant = "tenant";
    business_unit = "business-unit";
    application = "application";
    service = "service";
    agent = "agent";
    owner = "owner";
    cost_centre = "cost-centre";
    environment = "environment";
    workflow = "workflow";
    run = "run";
    principal = "principal";
    charged_to = "charged-to";
    provider = "provider";
    model = "model";
    prompt_class = "prompt-class";
    credential = "credential";
    outcome = "outcome";
}

fn parameter(option: &'static str) -> &'static str {
    match option {
        "business-unit" => "business_unit",
        "cost-centre" => "cost_centre",
        "charged-to" => "charged_to",
        "prompt-class" => "prompt_class",
        other => other,
    }
}

/// `?a=b&c=d`, escaped.
pub fn query(pairs: &[(&str, String)]) -> String {
    let all: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
}
