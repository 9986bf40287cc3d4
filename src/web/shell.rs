//! What surrounds every page: navigation, theme, who is signed in, and what the figures are as of.

use crate::domain::Micros;
use crate::store::AsOf;

use super::format::{self, When};
use super::layers::Ctx;

/// The pages of the top navigation: only what exists.
const NAV: [(&str, &str); 7] = [
    ("/", "Overview"),
    ("/spend", "Spend"),
    ("/budgets", "Budgets"),
    ("/alerts", "Alerts"),
    ("/calls", "Calls"),
    ("/catalogue", "Govern"),
    ("/help", "Help"),
];

/// The frame of a page.
#[derive(Clone, Debug)]
pub struct Shell {
    pub title: String,
    pub nav: Vec<NavItem>,
    pub organisation: Option<String>,
    /// `auto`, `light` or `dark`.
    pub theme: &'static str,
    pub next_theme: &'static str,
    /// Keyboard shortcuts are on.
    pub keys: bool,
    pub operator: Option<String>,
    pub role: &'static str,
    pub csrf: String,
    pub head: Option<HeadLine>,
    /// Calls are refused because the journal cannot be written.
    pub degraded: bool,
    /// Path and query of this page.
    pub here: String,
    pub version: &'static str,
}

#[derive(Clone, Debug)]
pub struct NavItem {
    pub href: &'static str,
    pub label: &'static str,
    pub current: bool,
}

/// Where the ledger stands.
#[derive(Clone, Debug)]
pub struct HeadLine {
    pub size: String,
    /// First characters of the root.
    pub root: String,
    pub newest: Option<When>,
}

impl Shell {
    /// The frame of the page that this request asks for.
    pub fn new(ctx: &Ctx, title: impl Into<String>) -> Shell {
        let path = ctx.uri.path();
        let current = |href: &str| match href {
            "/" => path == "/",
            "/catalogue" => {
                super::govern::PAGES.iter().any(|(page, _)| *page == path) || path.starts_with("/policies/")
            }
            _ => path.starts_with(href),
        };
        let signed_in = ctx.session.is_some();
        let zone = ctx.zone();
        let head = signed_in.then(|| ctx.web.ledger.head()).map(|head| HeadLine {
            size: format::count(head.size),
            root: format::head(&format::hex(&head.root)),
            newest: (head.at > Micros(0)).then(|| format::when(head.at, &zone)),
        });
        Shell {
            title: title.into(),
            nav: NAV.iter().map(|(href, label)| NavItem { href, label, current: current(href) }).collect(),
            organisation: signed_in.then(|| ctx.web.ledger.catalogue().organisation.name.clone()),
            theme: ctx.theme,
            next_theme: match ctx.theme {
                "auto" => "light",
                "light" => "dark",
                _ => "auto",
            },
            keys: ctx.keys,
            operator: ctx.session.as_ref().map(|s| s.operator.clone()),
            role: ctx.session.as_ref().map(|s| s.role).unwrap_or_default(),
            csrf: ctx.session.as_ref().map(|s| s.csrf.0.clone()).unwrap_or_default(),
            head,
            degraded: signed_in && !ctx.web.ledger.healthy(),
            here: ctx.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// The address of an embedded file.
    pub fn asset(&self, name: &'static str) -> &'static str {
        super::assets::address(name)
    }
}

/// How far behind the ledger an answer is, where it is: a sentence, or nothing.
pub fn as_of(ctx: &Ctx, as_of: AsOf) -> Option<String> {
    let size = ctx.web.ledger.head().position();
    let behind = size.saturating_sub(as_of.seq);
    (behind > 0 && as_of.seq > 0).then(|| {
        format!("complete up to entry {}, {} behind the ledger", format::count(as_of.seq), format::count(behind))
    })
}
