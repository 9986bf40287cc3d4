//! What goes wrong on the way to a page, in words for the reader and, apart from those, for the log.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::store::StoreError;

use super::query::QueryError;

/// An answer that is not the page asked for. Rendered as a page by the outermost layer, which knows theme and session.
#[derive(Clone, Debug)]
pub struct PageError {
    pub status: StatusCode,
    pub title: String,
    pub message: String,
    pub way_out: Option<(String, String)>,
    /// For the log alone.
    pub cause: Option<String>,
}

impl PageError {
    fn new(status: StatusCode, title: &str, message: impl Into<String>) -> PageError {
        PageError { status, title: title.to_owned(), message: message.into(), way_out: None, cause: None }
    }

    pub fn not_found(what: &str) -> PageError {
        PageError::new(StatusCode::NOT_FOUND, "Not found", format!("There is no {what}."))
            .with_way_out("/", "Back to the overview")
    }

    /// A request that cannot be trusted to come from this UI.
    pub fn forged() -> PageError {
        let message = "This form did not come from your present session. Go back, reload the page and send it again.";
        PageError::new(StatusCode::FORBIDDEN, "Not accepted", message).with_way_out("/", "Back to the overview")
    }

    pub fn forbidden(message: impl Into<String>) -> PageError {
        PageError::new(StatusCode::FORBIDDEN, "Not accepted", message)
    }

    /// What was asked for cannot be, as things are.
    pub fn conflict(title: &str, message: impl Into<String>) -> PageError {
        PageError::new(StatusCode::CONFLICT, title, message)
    }

    pub fn bad_form(message: impl Into<String>) -> PageError {
        PageError::new(StatusCode::BAD_REQUEST, "This form cannot be read", message)
    }

    pub fn internal(cause: impl Into<String>) -> PageError {
        let message = "This page could not be made. Nothing was changed by it.";
        let mut error = PageError::new(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong", message);
        error.cause = Some(cause.into());
        error
    }

    pub fn with_way_out(mut self, href: &str, label: &str) -> PageError {
        self.way_out = Some((href.to_owned(), label.to_owned()));
        self
    }
}

impl From<QueryError> for PageError {
    fn from(e: QueryError) -> PageError {
        let mut message = e.message;
        if let Some(first) = message.get(..1) {
            message = first.to_uppercase() + &message[1..];
        }
        PageError::new(StatusCode::BAD_REQUEST, &format!("`{}` cannot be used like this", e.field), message + ".")
    }
}

impl From<StoreError> for PageError {
    fn from(e: StoreError) -> PageError {
        match e {
            StoreError::Unwritable(_) | StoreError::Full(_) | StoreError::Busy | StoreError::Closed => {
                let message = format!("This could not be recorded, so it was not done: {e}.");
                let mut error = PageError::new(StatusCode::SERVICE_UNAVAILABLE, "Not possible at the moment", message);
                error.cause = Some(e.to_string());
                error
            }
            other => PageError::internal(other.to_string()),
        }
    }
}

impl From<askama::Error> for PageError {
    fn from(e: askama::Error) -> PageError {
        PageError::internal(format!("template: {e}"))
    }
}

impl From<tokio::task::JoinError> for PageError {
    fn from(e: tokio::task::JoinError) -> PageError {
        PageError::internal(format!("task: {e}"))
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
