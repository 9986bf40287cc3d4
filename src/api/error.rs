//! What goes wrong, as a status and `{"error":{"code","message"}}`; what only we may know goes to the log.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::pricing::QuoteError;
use crate::report::ReportError;
use crate::store::StoreError;
use crate::store::backup::BackupError;

/// An answer that is no.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<String>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl ToString) -> ApiError {
        ApiError { status, code, message: message.to_string(), field: None }
    }

    /// The caller's input is wrong; `field` is its name for what is.
    pub fn invalid(field: &str, message: impl ToString) -> ApiError {
        let message = format!("`{field}`: {}", message.to_string());
        ApiError { field: Some(field.to_owned()), ..ApiError::new(StatusCode::BAD_REQUEST, "invalid", message) }
    }

    /// The same, with a message that names the field itself.
    pub fn wrong(field: &str, message: String) -> ApiError {
        ApiError {
            field: Some(field.to_owned()),
            ..ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
        }
    }

    pub fn not_found(what: impl ToString) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("{} not found", what.to_string()))
    }

    pub fn unauthorized() -> ApiError {
        let message = "send `Authorization: Bearer` with an operator token (wbo_…), or the configured operator token";
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// Ours: logged here, and not told.
    pub fn internal(error: impl std::fmt::Display) -> ApiError {
        tracing::error!(%error, "the API could not answer");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something failed on our side; the log has it")
    }
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> ApiError {
        match error {
            ReportError::Invalid { field, message } => ApiError::invalid(&field, message),
            ReportError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        match error {
            StoreError::Refused(why) => ApiError::new(StatusCode::CONFLICT, "refused", why),
            StoreError::Busy | StoreError::Unwritable(_) | StoreError::Full(_) | StoreError::Closed => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "journal_unavailable", error)
            }
            error => ApiError::internal(error),
        }
    }
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> ApiError {
        match error {
            BackupError::Refused(why) => ApiError::new(StatusCode::CONFLICT, "refused", why),
            BackupError::Store(error) => error.into(),
            error => ApiError::internal(error),
        }
    }
}

impl From<QuoteError> for ApiError {
    fn from(error: QuoteError) -> ApiError {
        let code = match &error {
            QuoteError::UnknownModel { .. } => "unknown_model",
            QuoteError::InvalidUsage(_) => "invalid_usage",
        };
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(field) = self.field {
            error["field"] = field.into();
        }
        let mut response = (self.status, Json(serde_json::json!({ "error": error }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer realm=\"weighbridge\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

pub async fn unknown_path(uri: axum::extract::OriginalUri) -> ApiError {
    ApiError::not_found(format!("path `{}` (see /api/v1/openapi.json)", uri.0.path()))
}

pub async fn wrong_method(method: axum::http::Method, uri: axum::extract::OriginalUri) -> ApiError {
    let message = format!("{method} is not offered at `{}` (see /api/v1/openapi.json)", uri.0.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
