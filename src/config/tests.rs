//! Files as people write them, and what they are told.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::*;
use crate::domain::{Dimension, Enforcement, Metric};

const PROD: &str = "wbk_p7Qm2Xc9LtRaVb3nT0zKq8YhWc5rJd1LxGf6PsEaUo292pCnYt";

#[derive(Default)]
struct Told {
    env: HashMap<String, String>,
    files: HashMap<PathBuf, String>,
}

impl Surroundings for Told {
    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }
    fn file(&self, path: &Path) -> std::io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

fn told() -> Told {
    let env = [
        ("OPENAI_API_KEY", "sk-1"),
        ("INVOICE_BOT_KEY", PROD),
        ("WEIGHBRIDGE_TOKEN", "0123456789abcdefghij"),
        ("FINOPS_WEBHOOK_SECRET", "whsec_c2lnbmVk"),
        ("SMTP_PASSWORD", "mail-password"),
        ("SLACK_WEBHOOK", "https://hooks.slack.example/T0/B0/x"),
        ("TEAMS_WORKFLOW", "https://teams.example/workflows/x"),
        ("MATTERMOST_WEBHOOK", "https://chat.example/hooks/x"),
    ];
    Told {
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        files: HashMap::from([(PathBuf::from("etc/anthropic.key"), "sk-ant-1\n".to_owned())]),
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("etc/weighbridge.toml"), text, &told())
}

/// Every line of `expected` is a problem of the file, and there are no others.
fn check(text: &str, expected: &[&str]) {
    let error = parse(text).err().unwrap_or_else(|| panic!("accepted: {text}")).0;
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{error}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "expected `{expected}` in: {error}");
    }
}

#[test]
fn the_default_is_a_good_file_as_it_is_and_with_every_example_in_force() {
    let plain = parse(DEFAULT).unwrap();
    assert!(plain.declared.services.is_empty() && plain.declared.organisation.is_none());
    assert_eq!(plain.server.listen, Server::default().listen);
    assert_eq!(plain.server.max_body_bytes, Server::default().max_body_bytes);
    assert_eq!(plain.server.max_concurrent, Server::default().max_concurrent);

    let example =
        |line: &str| line.strip_prefix('#').filter(|r| !r.is_empty() && !r.starts_with(' ')).map(str::to_owned);
    let lines: Vec<String> = DEFAULT.lines().map(|l| example(l).unwrap_or_else(|| l.to_owned())).collect();
    let full = parse(&lines.join("\n")).map_err(|e| e.0).unwrap();
    let declared = &full.declared;
    assert_eq!(declared.providers.len(), 2);
    assert_eq!(declared.providers[0].1.as_ref().unwrap().expose_secret(), "sk-1");
    assert_eq!(declared.providers[1].1.as_ref().unwrap().expose_secret(), "sk-ant-1");
    assert_eq!(declared.keys[0].secret.id(), "wbk_p7Qm2Xc9LtRa");
    // The last day it works, in Berlin.
    assert_eq!(declared.keys[0].expires.unwrap().unwrap().to_string(), "2027-01-31T23:00:00.000000Z");
    let budget = &declared.budgets[0];
    assert_eq!((budget.limit.metric, budget.limit.amount), (Metric::Usd, 500 * crate::domain::money::UNITS_PER_USD));
    assert_eq!(budget.enforcement, Enforcement::Hard);
    assert_eq!(budget.matches[&Dimension::Environment], "prod");
    assert_eq!(declared.prices.len(), 2);
    assert_eq!(declared.policies.len(), 2);
    assert_eq!(declared.policies[1].downgrade.as_ref().unwrap().to, "gpt-5-mini");
    assert!(full.server.tls.is_some() && full.server.operator_token.is_some());
    let channels: Vec<&str> = declared.notify.iter().map(|(n, _)| n.kind.name()).collect();
    assert_eq!(channels, ["webhook", "email", "slack", "teams", "mattermost", "syslog"]);
    assert_eq!(declared.notify[0].1.secret.as_deref(), Some("whsec_c2lnbmVk"));
    assert_eq!(
        (declared.notify[1].0.host.as_str(), &declared.notify[1].1.to),
        ("smtp.example.com:587", &vec!["finops@example.com".to_owned()])
    );
}

#[test]
fn every_key_of_the_schema_is_explained_in_the_default() {
    let schema = Config::schema();
    let sections = schema["$defs"].as_object().unwrap().iter().filter(|(_, d)| d["properties"].is_object());
    for (section, definition) in sections {
        for key in definition["properties"].as_object().unwrap().keys() {
            let said = DEFAULT.contains(key.as_str());
            let own_section = ["server", "tls", "secret"].contains(&key.as_str());
            assert!(said || own_section, "`{key}` of {section} is not in the default configuration");
        }
    }
    assert!(schema["properties"]["server"].is_object());
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_known_one() {
    check(
        "[server]\n\nlistn = \"127.0.0.1:1\"\n",
        &["unknown key `listn` at weighbridge.toml:3: did you mean `listen`?"],
    );
    check("[sever]\n", &["unknown key `sever` at weighbridge.toml:1: did you mean `server`?"]);
    check(
        "[[budget]]\nid = \"a\"\nlimit_usd = \"1\"\nperiod = \"day\"\nmatch = { servce = \"x\" }\n",
        &["unknown key `servce` at weighbridge.toml:5: did you mean `service`?"],
    );
    check(
        "[[provider]]\nid = \"a\"\ndialect = \"openai\"\nbase_url = \"https://a.example\"\napi_key = { evn = \"X\" }\n",
        &[
            "`api_key` at weighbridge.toml:5: a secret is",
            "unknown key `evn` at weighbridge.toml:5: did you mean `env`?",
        ],
    );
}

#[test]
fn what_this_version_does_not_enforce_is_refused_and_not_ignored() {
    check(
        "[[key]]\nservice = \"s\"\nenvironment = \"prod\"\nbinding = \"mtls\"\n",
        &["`binding` at weighbridge.toml:4: is not enforced by this version; remove it"],
    );
    check(
        "[server.tls]\ncert = \"a\"\nkey = \"b\"\nclient_ca = \"c\"\n",
        &["`client_ca` at weighbridge.toml:4: is not enforced by this version; remove it"],
    );
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = "\
[server]
listen = \"localhost\"
[[service]]
id = \"Ada@acme.example\"
owner = \"team\"
business_unit = \"b\"
[[service]]
id = \"a\"
business_unit = \"b\"
[[key]]
service = \"none\"
environment = \"production\"
secret = \"wbk_short\"
[[budget]]
id = \"b\"
period = \"fortnight\"
limit_usd = \"1\"
[[budget]]
id = \"c\"
period = \"day\"
limit_usd = 5
[[budget]]
id = \"d\"
period = \"day\"
limit_usd = \"5\"
limit_calls = 5
";
    let expected = [
        "`listen` at weighbridge.toml:2: `localhost` is not an address",
        "`id` at weighbridge.toml:4: `Ada@acme.example` looks like an e-mail address",
        "section at weighbridge.toml:7: missing field `owner`",
        "`service` at weighbridge.toml:11: service `none` is not declared",
        "`environment` at weighbridge.toml:12: `production` is not an environment",
        "`secret` at weighbridge.toml:13: not 54 characters",
        "`period` at weighbridge.toml:16: unknown variant `fortnight`",
        "`limit_usd` at weighbridge.toml:21: invalid type: integer `5`, expected a string: write it in quotes",
        "`id` at weighbridge.toml:23: budget `d` has 2 limits",
    ];
    check(text, &expected);
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    check("[server]\nlisten = \n", &["not TOML at weighbridge.toml:2:"]);
    check("a = 1\na = 2\n", &["not TOML at weighbridge.toml:2:"]);
    check("[service]\nid = \"a\"\n", &["`service` at weighbridge.toml:1: there can be several, so write [[service]]"]);
}

fn provider(id: &str, url: &str, internal: bool) -> String {
    format!("[[provider]]\nid = \"{id}\"\ndialect = \"openai\"\nbase_url = \"{url}\"\ninternal = {internal}\n")
}

#[test]
fn a_base_url_is_https_unless_it_is_our_own() {
    for (url, what) in [
        ("http://api.example/v1", "not encrypted"),
        ("https://127.0.0.1/v1", "loopback or private"),
        ("https://10.1.2.3", "loopback or private"),
        ("https://localhost:1234", "loopback or private"),
        ("https://[::1]:8000/v1", "loopback or private"),
        ("https://169.254.169.254", "loopback or private"),
        ("https://user:pass@api.example", "no query, fragment or credential"),
        ("https://api.example/v1?x=1", "no query"),
        ("ftp://api.example", "not a base URL"),
        ("api.example", "not a base URL"),
    ] {
        check(&provider("a", url, false), &[what]);
    }
    for url in ["http://127.0.0.1:8000/v1", "http://localhost", "https://10.0.0.1", "http://models.internal:80"] {
        assert!(parse(&provider("a", url, true)).is_ok(), "{url}");
    }
    let read = parse(&provider("a", "https://api.example/v1/", false)).unwrap();
    assert_eq!(read.declared.providers[0].0.base_url, "https://api.example/v1");
}

#[test]
fn provider_ids_that_would_hide_a_path_are_refused() {
    for id in rules::RESERVED_PROVIDERS {
        check(&provider(id, "https://a.example", false), &["would hide a path"]);
    }
}

#[test]
fn secrets_come_from_environment_or_file_and_a_missing_one_is_named() {
    check(
        "[server]\noperator_token = { env = \"NONE\" }\n",
        &["`operator_token` at weighbridge.toml:2: environment variable `NONE` is not set"],
    );
    check("[server]\noperator_token = { file = \"none\" }\n", &["file `none` cannot be read"]);
    check("[server]\noperator_token = \"short\"\n", &["shorter than 20 characters"]);
    let service = "[[service]]\nid = \"a\"\nowner = \"t\"\nbusiness_unit = \"b\"\npurpose = \"x\"\n";
    let key = |environment: &str| {
        format!("{service}[[key]]\nservice = \"a\"\nenvironment = \"{environment}\"\nsecret = \"{PROD}\"\n")
    };
    assert_eq!(parse(&key("prod")).unwrap().declared.keys.len(), 1);
    check(&key("test"), &["`wbk_p7Qm2Xc9LtRa…` is a key of environment `prod`, not `test`"]);
    let error = parse(&key("test")).err().unwrap().0;
    assert!(!error.contains(PROD), "a secret was printed");
    let without = format!("{service}[[key]]\nservice = \"a\"\nenvironment = \"test\"\n");
    assert!(parse(&without).unwrap().warnings[0].contains("weighbridge key create service=a environment=test"));
}

#[test]
fn a_hard_budget_on_the_callers_own_words_is_kept_as_alert_with_a_warning() {
    let text = "[[budget]]\nid = \"b\"\nmatch = { workflow = \"x\" }\nlimit_calls = 5\nperiod = \"day\"\nenforcement = \"hard\"\n";
    let config = parse(text).unwrap();
    assert_eq!(config.declared.budgets[0].enforcement, Enforcement::Alert);
    assert!(config.warnings[0].contains("`enforcement` at weighbridge.toml:6: budget `b` matches `workflow`"));
}

#[test]
fn prices_say_for_how_many_units_they_are() {
    let price = |rest: &str| format!("[[price]]\nprovider = \"openai\"\nmodel = \"m\"\n{rest}");
    check(&price("component = \"input_token\"\nusd_per_million = \"1\"\n"), &["did you mean `input_tokens`?"]);
    check(&price("component = \"input_tokens\"\n"), &["give `usd_per_million`, or `usd` and `per`"]);
    check(&price("component = \"input_tokens\"\nusd = \"1\"\nper = 0\n"), &["not negative and is for 1 unit or more"]);
    check(&price("component = \"input_tokens\"\nusd_per_million = \"1,5\"\n"), &["`1,5` is not an amount"]);
    let good =
        parse(&price("component = \"web_searches\"\nusd = \"10\"\nper = 1000\neffective_from = \"2026-12-01\"\n"));
    let price = good.unwrap().declared.prices.remove(0);
    assert_eq!((price.usd.as_str(), price.per), ("10", 1000));
    assert_eq!(price.effective_from.unwrap().to_string(), "2026-12-01T00:00:00.000000Z");
}

#[test]
fn a_channel_says_one_place_it_goes_to_and_nothing_secret_to_everybody() {
    let notify = |rest: &str| format!("[[notify]]\nid = \"x\"\n{rest}\n");
    check(&notify(""), &["exactly one of webhook, slack"]);
    check(
        &notify("webhook = \"https://a.example/x\"\nslack = \"https://b.example/x\""),
        &["exactly one of webhook, slack"],
    );
    check(&notify("webhook = \"a.example\""), &["`webhook` at weighbridge.toml:3: not a URL"]);
    check(&notify("slack = \"http://b.example/x\""), &["told to everybody on the way"]);
    check(&notify("webhook = \"https://127.0.0.1/x\""), &["a loopback address"]);
    check(&notify("email = [\"a@b.example\"]"), &["mail needs a server"]);
    let smtp = "smtp = { server = \"starttls://m.example:587\", from = \"wb@b.example\" }";
    check(&notify(&format!("email = [\"nobody\"]\n{smtp}")), &["not a mail address"]);
    check(&notify("syslog = \"siem.example\""), &["write udp://host:514"]);
    check(&notify("syslog = \"udp://siem.example:514\"\nsecret = \"x\""), &["`secret` belongs to a webhook"]);
    let quiet = "slack = \"https://b.example/x\"\nquiet_hours = { from = \"25:00\", to = \"07:00\" }";
    check(&notify(quiet), &["`25:00` is not a time of day"]);
    let read = parse(&notify(&format!("email = [\"a@b.example\"]\n{smtp}\ninternal = true"))).unwrap();
    let (channel, address) = &read.declared.notify[0];
    assert_eq!(format!("{address:?}"), "Address(sealed)");
    assert!(!format!("{channel:?}").contains('@'), "{channel:?}");
}
