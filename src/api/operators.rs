//! Operators: who may sign in, and their tokens for automation. Not declared state: people and secrets are not in the
//! journal; that they were added or removed is.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::domain::Micros;
use crate::domain::id::is_slug;
use crate::domain::key::SecretKind;
use crate::ledger::request::Request;
use crate::store::core::{Operator, OperatorToken, Role};
use crate::store::new_secret;

use super::{Actor, Api, ApiError, Endpoint, endpoint};

/// Longest life of a token, in days; the default too.
const MOST_DAYS: i64 = 365;

/// A person who may sign in.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Operator")]
struct OperatorView {
    id: String,
    name: String,
    role: &'static str,
    created_at: Micros,
    disabled: bool,
    /// Signs in with a password.
    password: bool,
}

/// A token of an operator, without its text.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OperatorToken")]
struct TokenView {
    /// `wbo_` and the token's id.
    id: String,
    operator: String,
    note: String,
    created_at: Micros,
    expires_at: Option<Micros>,
    /// The token itself: in the answer that made it, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Operators")]
struct OperatorsView {
    operators: Vec<OperatorView>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OperatorTokens")]
struct TokensView {
    tokens: Vec<TokenView>,
}

/// An operator to be, without a password: works by tokens, or signs in by a one-time link.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewOperator")]
struct NewOperator {
    /// A slug, never an address.
    id: String,
    name: Option<String>,
}

/// A token to be.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewToken")]
struct NewToken {
    /// What it is for.
    note: String,
    /// 1 to 365; default 365.
    days: Option<i64>,
}

impl From<Operator> for OperatorView {
    fn from(o: Operator) -> OperatorView {
        let role = match o.role {
            Role::Admin => "admin",
        };
        let password = o.password.is_some();
        OperatorView { id: o.id, name: o.name, role, created_at: o.created_at, disabled: o.disabled, password }
    }
}

impl From<OperatorToken> for TokenView {
    fn from(t: OperatorToken) -> TokenView {
        let OperatorToken { id, operator, note, created_at, expires_at } = t;
        TokenView { id, operator, note, created_at, expires_at, secret: None }
    }
}

pub fn endpoints() -> Vec<Endpoint> {
    let one: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<OperatorView>();
    let all: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<OperatorsView>();
    let token: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<TokenView>();
    let tokens: fn(&mut SchemaGenerator) -> Schema = |g| g.subschema_for::<TokensView>();
    let mut add = endpoint("POST", "/operators", "Add an operator", one, post(create));
    add.body = Some(|g| g.subschema_for::<NewOperator>());
    let mut mint = endpoint("POST", "/operators/{id}/tokens", "Make a token, shown this once", token, post(mint_token));
    mint.body = Some(|g| g.subschema_for::<NewToken>());
    vec![
        endpoint("GET", "/operators", "Who may sign in", all, get(list)),
        add,
        endpoint("GET", "/operators/{id}", "One operator", one, get(show)),
        endpoint("DELETE", "/operators/{id}", "Remove an operator with sessions and tokens", one, delete(remove)),
        endpoint("GET", "/operators/{id}/tokens", "An operator's tokens", tokens, get(list_tokens)),
        mint,
        endpoint("DELETE", "/operators/{id}/tokens/{token}", "Revoke a token", tokens, delete(revoke_token)),
    ]
}

fn read<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(text).map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "malformed", error))
}

impl Api {
    /// Recorded before it is done: what cannot be recorded does not happen.
    async fn note(&self, actor: &Actor, action: &str, subject: &str) -> Result<(), ApiError> {
        let (actor, action, subject) = (actor.0.clone(), action.to_owned(), Some(subject.to_owned()));
        self.ledger.submit(Request::Admin { actor, action, subject, reason: None }).await?;
        Ok(())
    }

    async fn operator(&self, id: &str) -> Result<Operator, ApiError> {
        let id: String = id.chars().take(80).collect();
        self.blocking(move |api| {
            let found = api.ledger.core().operator(&id)?;
            found.ok_or_else(|| ApiError::not_found(format!("operator `{id}`")))
        })
        .await
    }
}

async fn list(State(api): State<Api>) -> Result<Json<OperatorsView>, ApiError> {
    let operators = api.blocking(|api| Ok(api.ledger.core().operators()?)).await?;
    Ok(Json(OperatorsView { operators: operators.into_iter().map(OperatorView::from).collect() }))
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<OperatorView>, ApiError> {
    Ok(Json(api.operator(&id).await?.into()))
}

async fn create(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    text: Bytes,
) -> Result<(StatusCode, Json<OperatorView>), ApiError> {
    let new: NewOperator = read(&text)?;
    if !is_slug(&new.id) {
        let says = "is no id: up to 64 of a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit";
        return Err(ApiError::invalid("id", says));
    }
    let operator = Operator {
        name: new.name.unwrap_or_else(|| new.id.clone()),
        id: new.id,
        role: Role::Admin,
        password: None,
        created_at: api.ledger.clock().now(),
        disabled: false,
    };
    let id = operator.id.clone();
    if api.blocking(move |api| Ok(api.ledger.core().operator(&id)?.is_some())).await? {
        return Err(ApiError::new(StatusCode::CONFLICT, "conflict", format!("operator `{}` exists", operator.id)));
    }
    api.note(&actor, "operator.create", &operator.id).await?;
    let view = OperatorView::from(operator.clone());
    api.blocking(move |api| Ok(api.ledger.core().put_operator(&operator)?)).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

async fn remove(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<OperatorView>, ApiError> {
    let operator = api.operator(&id).await?;
    api.note(&actor, "operator.remove", &operator.id).await?;
    let id = operator.id.clone();
    api.blocking(move |api| Ok(api.ledger.core().remove_operator(&id)?)).await?;
    Ok(Json(operator.into()))
}

async fn list_tokens(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<TokensView>, ApiError> {
    let operator = api.operator(&id).await?;
    let all = api.blocking(|api| Ok(api.ledger.core().tokens()?)).await?;
    let own = all.into_iter().filter(|t| t.operator == operator.id).map(TokenView::from);
    Ok(Json(TokensView { tokens: own.collect() }))
}

async fn mint_token(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    text: Bytes,
) -> Result<(StatusCode, Json<TokenView>), ApiError> {
    let new: NewToken = read(&text)?;
    let operator = api.operator(&id).await?;
    let days = new.days.unwrap_or(MOST_DAYS);
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(ApiError::invalid("days", format!("is not a number from 1 to {MOST_DAYS}")));
    }
    let secret = new_secret(SecretKind::Operator, None)?;
    let now = api.ledger.clock().now();
    let token = OperatorToken {
        id: secret.id().to_owned(),
        operator: operator.id,
        note: new.note.chars().take(200).collect(),
        created_at: now,
        expires_at: Some(now.plus_seconds(days * 86_400)),
    };
    api.note(&actor, "operator.token", &format!("{} {}", token.operator, token.id)).await?;
    let view = TokenView { secret: Some(secret.expose().to_owned()), ..TokenView::from(token.clone()) };
    let hash = secret.hash(api.ledger.pepper());
    api.blocking(move |api| Ok(api.ledger.core().put_token(&hash, &token)?)).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

async fn revoke_token(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path((id, token)): Path<(String, String)>,
) -> Result<Json<TokensView>, ApiError> {
    let operator = api.operator(&id).await?;
    let all = api.blocking(|api| Ok(api.ledger.core().tokens()?)).await?;
    let short: String = token.chars().take(80).collect();
    let own = all.into_iter().find(|t| t.operator == operator.id && t.id == token);
    let own = own.ok_or_else(|| ApiError::not_found(format!("token `{short}`")))?;
    api.note(&actor, "operator.token.revoke", &format!("{} {}", own.operator, own.id)).await?;
    let id = own.id.clone();
    api.blocking(move |api| Ok(api.ledger.core().remove_token(&id)?)).await?;
    Ok(Json(TokensView { tokens: vec![own.into()] }))
}
