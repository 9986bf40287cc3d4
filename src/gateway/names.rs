//! Names of the headers that every call is asked for or given: made once, so that looking one up compares and does not
//! parse.

use http::HeaderName;

macro_rules! names {
    ($($name:ident = $text:literal;)*) => {
        $(pub static $name: HeaderName = HeaderName::from_static($text);)*
    };
}

names! {
    X_API_KEY = "x-api-key";
    X_GOOG_API_KEY = "x-goog-api-key";
    API_KEY = "api-key";
    X_AMZ_SECURITY_TOKEN = "x-amz-security-token";
    RETRY_COUNT = "x-stainless-retry-count";
    TRACEPARENT = "traceparent";
    ORIGINATOR = "originator";
    IDEMPOTENCY_KEY = "wb-idempotency-key";
    MAX_COST = "wb-max-cost";
    REQUEST_ID = "wb-request-id";
    CACHE = "wb-cache";
    COST = "wb-cost-usd";
    REMAINING = "wb-budget-remaining-usd";
    WARNING = "wb-budget-warning";
    OUTPUT_LIMIT = "wb-output-limit";
    POLICY_WARNING = "wb-policy-warning";
    DOWNGRADED = "wb-model-downgraded";
    X_REQUEST_ID = "x-request-id";
    PLAIN_REQUEST_ID = "request-id";
    APIM_REQUEST_ID = "apim-request-id";
    GENERATION_ID = "x-generation-id";
}
