use super::*;

#[test]
fn the_document_describes_every_endpoint_and_only_these() {
    let document = openapi::document();
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    assert_eq!(described, endpoints().len());
    for endpoint in endpoints() {
        let operation = &document["paths"][format!("/api/v1{}", endpoint.path)][endpoint.method.to_ascii_lowercase()];
        assert_eq!(operation["summary"], endpoint.summary, "{} {}", endpoint.method, endpoint.path);
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}
