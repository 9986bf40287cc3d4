//! `/search?q=`: the box that jumps to what an id or name stands for.

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};

use crate::domain::{CallId, Dimension, Filter, Match};

use super::error::PageError;
use super::layers::Ctx;
use super::query::link;
use super::shell::Shell;

#[derive(Template)]
#[template(path = "search.html", blocks = ["view"])]
struct SearchPage {
    shell: Shell,
    typed: String,
    as_model: String,
    as_workflow: String,
}

/// `GET /search`.
pub async fn jump(ctx: Ctx) -> Result<Response, PageError> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&ctx.uri).map(|q| q.0).unwrap_or_default();
    let typed: String = pairs
        .into_iter()
        .find(|(n, _)| n == "q")
        .map(|(_, v)| v.trim().chars().take(200).collect())
        .unwrap_or_default();
    if let Some(to) = target(&ctx, &typed).await? {
        return Ok(Redirect::to(&to).into_response());
    }
    let page = SearchPage {
        shell: Shell::new(&ctx, if typed.is_empty() { "Search" } else { "Nothing found" }),
        as_model: link("/calls", &[("range", "30d".into()), ("model", typed.clone())]),
        as_workflow: link("/calls", &[("range", "30d".into()), ("workflow", typed.clone())]),
        typed,
    };
    ctx.html(&page, page.as_view())
}

async fn target(ctx: &Ctx, typed: &str) -> Result<Option<String>, PageError> {
    if typed.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = typed.parse::<CallId>() {
        return Ok(Some(format!("/calls/{id}")));
    }
    // Never the whole secret: a key pasted whole is looked up by its id and goes no further.
    if typed.starts_with("wbk_") && typed.is_ascii() {
        let id = &typed[..typed.len().min(16)];
        let value = if id.len() < 16 { format!("{id}*") } else { id.to_owned() };
        return Ok(Some(link("/calls", &[("range", "30d".into()), ("credential", value)])));
    }
    let catalogue = ctx.web.ledger.catalogue();
    if catalogue.budgets.contains_key(typed) {
        return Ok(Some(format!("/budgets#{typed}")));
    }
    let business_unit = catalogue.services.values().any(|s| s.business_unit == typed);
    let declared = [
        (Dimension::Service, catalogue.services.contains_key(typed)),
        (Dimension::Owner, catalogue.owners.contains_key(typed)),
        (Dimension::Provider, catalogue.providers.contains_key(typed)),
        (Dimension::BusinessUnit, business_unit),
    ];
    if let Some((dimension, _)) = declared.into_iter().find(|(_, known)| *known) {
        return Ok(Some(link("/calls", &[(dimension.name(), typed.to_owned())])));
    }
    for dimension in [Dimension::Run, Dimension::Agent, Dimension::Model] {
        let from = Some(ctx.now.plus_seconds(-30 * 86_400));
        let filter = Filter { from, to: None, dimensions: vec![(dimension, Match::Is(typed.to_owned()))] };
        let ledger = ctx.web.ledger.clone();
        let found = tokio::task::spawn_blocking(move || ledger.calls(&filter, None, 1)).await??;
        if !found.0.is_empty() {
            return Ok(Some(link("/calls", &[("range", "30d".into()), (dimension.name(), typed.to_owned())])));
        }
    }
    Ok(None)
}
