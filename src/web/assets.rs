//! Style sheet, scripts and icon, embedded in the binary and named by their hash, so that a browser keeps them for good.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use rust_embed::Embed;

#[derive(Embed)]
#[folder = "static/"]
struct Static;

/// One embedded file, as it is sent.
struct Asset {
    content_type: String,
    plain: Bytes,
    gzip: Bytes,
}

/// The files of the binary, compressed once.
struct Assets {
    /// `app.css` → `/static/app.1a2b3c4d.css`.
    addresses: BTreeMap<String, String>,
    /// `app.1a2b3c4d.css` → the file.
    files: BTreeMap<String, Asset>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let mut assets = Assets { addresses: BTreeMap::new(), files: BTreeMap::new() };
    for name in Static::iter() {
        let Some(file) = Static::get(&name) else { continue };
        let hash = data_encoding::HEXLOWER.encode(&file.metadata.sha256_hash()[..6]);
        let hashed = match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem}.{hash}.{extension}"),
            None => format!("{name}.{hash}"),
        };
        assets.addresses.insert(name.to_string(), format!("/static/{hashed}"));
        let asset = Asset {
            content_type: mime_guess::from_path(name.as_ref()).first_or_octet_stream().to_string(),
            gzip: gzip(&file.data),
            plain: Bytes::from(file.data.into_owned()),
        };
        assets.files.insert(hashed, asset);
    }
    assets
});

fn gzip(data: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(data).and_then(|()| encoder.finish());
    // Writing into memory does not fail; an empty copy would only mean that the plain one is sent.
    Bytes::from(written.unwrap_or_default())
}

/// The address of a file; a name that is not embedded is its own address, which will not be found.
pub fn address(name: &str) -> &str {
    ASSETS.addresses.get(name).map_or(name, String::as_str)
}

/// `GET /static/{*name}`.
pub async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.files.get(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let zip = !asset.gzip.is_empty() && accepted.split(',').any(|e| e.trim().split(';').next() == Some("gzip"));
    let mut response = if zip { asset.gzip.clone() } else { asset.plain.clone() }.into_response();
    let head = response.headers_mut();
    if zip {
        head.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(content_type) = HeaderValue::from_str(&asset.content_type) {
        head.insert(header::CONTENT_TYPE, content_type);
    }
    head.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// What npm has as `htmx.org@4.0.1` (2026-09-14), untouched.
    const VENDORED: [(&str, &str); 2] = [
        ("vendor/htmx.min.js", "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"),
        ("vendor/htmx.LICENSE", "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38"),
    ];

    #[test]
    fn vendored_files_are_those_of_the_manifest() {
        let mut found: Vec<_> = Static::iter().filter(|n| n.starts_with("vendor/")).map(|n| n.to_string()).collect();
        found.sort();
        let mut listed: Vec<_> = VENDORED.iter().map(|(n, _)| n.to_string()).collect();
        listed.sort();
        assert_eq!(found, listed);
        for (name, hash) in VENDORED {
            let file = Static::get(name).unwrap();
            assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&file.data)), hash, "{name}");
        }
    }

    #[test]
    fn the_stylesheet_is_under_twenty_kilobytes_and_a_first_visit_under_ninety() {
        assert!(Static::get("app.css").unwrap().data.len() < 20_000);
        let total: usize = ASSETS.files.values().map(|a| a.gzip.len()).sum();
        assert!(total < 40_000, "{total} bytes leave too little for the page");
    }

    #[test]
    fn names_carry_the_hash_of_what_they_name() {
        assert!(address("app.css").starts_with("/static/app."));
        assert_eq!(address("nothing.css"), "nothing.css");
    }

    /// The content security policy forbids inline code and styles, and htmx's own little languages need `eval`.
    #[test]
    fn no_template_needs_more_than_the_content_security_policy_allows() {
        fn templates(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { templates(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        templates(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates"), &mut found);
        assert!(found.len() > 10);
        let event = regex::Regex::new(r#"\s(on[a-z]+|style|hx-on[:a-z-]*|hx-vals|hx-vars)\s*="#).unwrap();
        let filter = regex::Regex::new(r#"hx-trigger="[^"]*\["#).unwrap();
        for path in found {
            let text = std::fs::read_to_string(&path).unwrap();
            for (what, bad) in [
                ("an inline handler, style or script value", event.is_match(&text)),
                ("a trigger filter", filter.is_match(&text)),
                ("an inline script", text.contains("<script>")),
                ("an inline style", text.contains("<style")),
                ("unescaped output", text.contains("|safe") || text.contains("| safe")),
            ] {
                assert!(!bad, "{}: {what}", path.display());
            }
        }
    }
}
