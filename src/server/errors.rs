//! What a request is refused with: a status, and a JSON document in OpenAI's shape.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::Refusal;

/// Seconds after which a client that was sent away may ask again.
const RETRY_AFTER: u32 = 1;

/// A refusal or a failure, as a client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The status of the answer.
    pub status: StatusCode,
    /// OpenAI's name for such errors.
    pub kind: &'static str,
    /// What was found, what is expected, and what to do.
    pub message: String,
    /// The field of the request that is to blame.
    pub field: Option<String>,
    /// Seconds after which the same request may succeed.
    pub retry_after: Option<u32>,
    /// What a program may want to know besides.
    pub figures: Vec<(&'static str, usize)>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            field: None,
            retry_after: None,
            figures: Vec::new(),
        }
    }

    /// 400: the request cannot be understood or served.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400: this field of the request is wrong.
    pub fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        let error = Self::bad_request(format!("{field}: {problem}"));
        Self { field: Some(field.to_string()), ..error }
    }

    /// 401: no key, or another one.
    pub fn unauthorized() -> Self {
        let message = "the API key is missing or wrong: send it as \"Authorization: Bearer KEY\"";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
    }

    /// 404: there is no such path or model.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message)
    }

    /// 405: the path is there, but not for this method.
    pub fn wrong_method() -> Self {
        let message = "this path does not take this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// 408: the request did not come to its end.
    pub fn too_slow() -> Self {
        let message = "the request's body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", message)
    }

    /// 413: the body is larger than the server reads.
    pub fn too_large(most: usize) -> Self {
        let message = format!("the request's body is larger than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 500: a fault of the server.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 501: nobody has built it.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported_error", message)
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", message);
        Self { retry_after: Some(RETRY_AFTER), ..error }
    }

    /// The document that says so.
    pub fn document(&self) -> Value {
        let mut error = json!({
            "message": self.message,
            "type": self.kind,
            "param": self.field,
            "code": self.status.as_u16(),
        });
        for &(name, figure) in &self.figures {
            error[name] = json!(figure);
        }
        json!({ "error": error })
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::QueueFull { .. } => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let error = Self::new(status, "rate_limit_error", message);
                Self { retry_after: Some(RETRY_AFTER), ..error }
            }
            // The name and the figures that llama-server's clients know.
            Refusal::TooLong { tokens, context } => Self {
                field: Some("prompt".to_string()),
                kind: "exceed_context_size_error",
                figures: vec![("n_prompt_tokens", tokens), ("n_ctx", context)],
                ..Self::bad_request(message)
            },
            Refusal::EmptyPrompt | Refusal::UnknownToken { .. } => {
                Self { field: Some("prompt".to_string()), ..Self::bad_request(message) }
            }
            Refusal::Sampling(_) => Self::bad_request(message),
            Refusal::NoMemory { .. } => Self { retry_after: None, ..Self::unavailable(message) },
            Refusal::Closing => Self::unavailable(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.document());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer with one JSON document.
pub fn json_response(status: StatusCode, document: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => {
            let kind = HeaderValue::from_static("application/json");
            (status, [(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Err(error) => {
            tracing::error!("an answer cannot be written as JSON: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_status() {
        let status = |refusal| ApiError::from(refusal).status.as_u16();
        assert_eq!(status(Refusal::QueueFull { waiting: 3 }), 429);
        assert_eq!(status(Refusal::TooLong { tokens: 9, context: 8 }), 400);
        assert_eq!(status(Refusal::NoMemory { needed: 9, available: 8 }), 503);
        assert_eq!(status(Refusal::Closing), 503);
        let response = ApiError::from(Refusal::QueueFull { waiting: 3 }).into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        let named = ApiError::field("top_p", "expected a number").document();
        assert_eq!(named["error"]["param"], "top_p");
        assert_eq!(named["error"]["message"], "top_p: expected a number");
    }
}
