//! The documents that services serve, to hold answers against: what is not described there must not be said.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// An answer, as it came.
#[derive(Debug)]
pub struct Said {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body's text.
    pub text: String,
}

impl Said {
    /// The body, where it is JSON; else null.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// One service's document, and what was seen of it.
pub struct Contract {
    base_url: String,
    http: reqwest::Client,
    paths: Map<String, Value>,
    /// The schemas, closed: in tests a member that is not described is a fault.
    components: Value,
    seen: BTreeSet<String>,
}

impl Contract {
    /// Fetches the document at `path` of a service.
    ///
    /// # Errors
    /// There is none, or it is no OpenAPI 3.1.
    pub async fn of(base_url: &str, path: &str) -> Result<Self> {
        let http = reqwest::Client::new();
        let document: Value =
            http.get(format!("{base_url}{path}")).send().await?.error_for_status()?.json().await?;
        let version = document.get("openapi");
        ensure!(version == Some(&json!("3.1.0")), "{version:?} is served");
        let paths = member(&document, "paths").cloned().context("a document has paths")?;
        let mut components = document.get("components").cloned().unwrap_or_default();
        let schemas = components.get_mut("schemas").and_then(Value::as_object_mut);
        for schema in schemas.context("a document has schemas")?.values_mut().filter_map(Value::as_object_mut)
        {
            if schema.get("type") == Some(&json!("object")) {
                schema.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        let mut contract =
            Self { base_url: base_url.to_owned(), http, paths, components, seen: BTreeSet::new() };
        contract.ask(Method::GET, path, |request| request).await?;
        Ok(contract)
    }

    /// Asks, and holds the answer against the document.
    ///
    /// # Errors
    /// No answer, or one that is not described.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Said> {
        let request = with(self.http.request(method.clone(), format!("{}{path}", self.base_url)));
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let said = Said { status, headers, text: response.text().await? };
        self.check(&method, path, &said).with_context(|| format!("{method} {path} was answered {said:?}"))?;
        Ok(said)
    }

    /// Asks, and expects this status and code.
    ///
    /// # Errors
    /// Another one, or an answer that is not described.
    pub async fn expect(
        &mut self,
        expected: (u16, &str),
        method: Method,
        path: &str,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Value> {
        let said = self.ask(method, path, with).await?;
        let body = said.json();
        let code = body.get("code").and_then(Value::as_str).unwrap_or_default();
        ensure!((said.status.as_u16(), code) == expected, "{path}: {said:?} instead of {expected:?}");
        Ok(body)
    }

    /// Holds data against a schema that no JSON body has.
    ///
    /// # Errors
    /// It does not fit.
    pub fn check_schema(&self, name: &str, data: &Value) -> Result<()> {
        ensure!(
            member(&self.components, "schemas").is_some_and(|schemas| schemas.contains_key(name)),
            "there is no schema {name}"
        );
        self.validate(&json!({"$ref": format!("#/components/schemas/{name}")}), data)
    }

    /// Answers that are described as success and were never seen.
    #[must_use]
    pub fn unseen(&self) -> Vec<String> {
        let described = self.paths.iter().flat_map(|(path, item)| {
            let operations = item.as_object().into_iter().flatten();
            operations.flat_map(move |(method, operation)| {
                let statuses = member(operation, "responses").into_iter().flatten().map(|(status, _)| status);
                statuses
                    .filter(|status| status.starts_with('2'))
                    .map(move |status| format!("{method} {path} {status}"))
            })
        });
        described.filter(|answer| !self.seen.contains(answer)).collect()
    }

    fn check(&mut self, method: &Method, path: &str, said: &Said) -> Result<()> {
        let template = self.template(path).context("the path is not described")?.to_owned();
        let method = method.as_str().to_lowercase();
        let operation = self.paths.get(&template).and_then(|item| item.get(&method));
        let responses = operation.and_then(|operation| member(operation, "responses"));
        let status = said.status.as_str();
        let described =
            responses.and_then(|responses| responses.get(status)).context("the status is not described")?;
        for (name, _) in member(described, "headers").into_iter().flatten() {
            ensure!(said.headers.contains_key(name), "the header {name} is missing");
        }
        match member(described, "content") {
            None => ensure!(said.text.is_empty(), "no body is described"),
            Some(content) => {
                let kind = said.headers.get(CONTENT_TYPE).context("there is no content type")?.to_str()?;
                let media = content.get(kind).with_context(|| format!("{kind} is not described"))?;
                if kind.ends_with("json") {
                    let schema = media.get("schema").context("a JSON body has a schema")?;
                    self.validate(schema, &serde_json::from_str(&said.text)?)?;
                }
            }
        }
        self.seen.insert(format!("{method} {template} {status}"));
        Ok(())
    }

    /// The described path that this one is meant by; one without parameters goes first, as in the services.
    fn template(&self, path: &str) -> Option<&str> {
        let path = path.split('?').next().unwrap_or_default();
        let fits = |template: &&String| {
            let (found, described): (Vec<_>, Vec<_>) =
                (path.split('/').collect(), template.split('/').collect());
            found.len() == described.len()
                && found
                    .iter()
                    .zip(&described)
                    .all(|(found, described)| described.starts_with('{') || found == described)
        };
        self.paths
            .keys()
            .filter(fits)
            .min_by_key(|template| template.matches('{').count())
            .map(String::as_str)
    }

    fn validate(&self, schema: &Value, data: &Value) -> Result<()> {
        let schema = json!({"allOf": [schema], "components": self.components});
        let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema)?;
        let faults: Vec<String> =
            validator.iter_errors(data).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        ensure!(faults.is_empty(), "{data} does not fit: {faults:?}");
        Ok(())
    }
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    value.get(name)?.as_object()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> Contract {
        let problem =
            json!({"allOf": [{"$ref": "#/components/schemas/P"}, {"properties": {"code": {"enum": ["a"]}}}]});
        let responses = json!({
            "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/T"}}}, "headers": {"ETag": {}}},
            "409": {"content": {"application/problem+json": {"schema": problem}}},
        });
        let schema = |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
        let mut thing = schema(json!({"at": {"type": "string", "format": "date-time"}}));
        thing["required"] = json!(["at"]);
        let paths =
            json!({"/v1/{id}": {"get": {"responses": responses}}, "/v1/fixed": {"get": {"responses": {}}}});
        Contract {
            base_url: String::new(),
            http: reqwest::Client::new(),
            paths: paths.as_object().unwrap().clone(),
            components: json!({"schemas": {"T": thing, "P": schema(json!({"code": {"type": "string"}}))}}),
            seen: BTreeSet::new(),
        }
    }

    fn said(status: u16, kind: &'static str, text: &str) -> Said {
        let headers = [("content-type", kind), ("etag", "x")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let status = StatusCode::from_u16(status).unwrap();
        Said { status, headers: headers.into_iter().collect(), text: text.to_owned() }
    }

    #[test]
    fn whatever_is_not_described_is_a_fault() {
        let mut contract = contract();
        let good = r#"{"at": "2026-11-21T10:00:00Z"}"#;
        let mut check = |path: &str, said: Said| {
            contract.check(&Method::GET, path, &said).map_err(|error| error.to_string())
        };
        check("/v1/x?y=z", said(200, "application/json", good)).unwrap();
        check("/v1/x", said(409, "application/problem+json", r#"{"code": "a"}"#)).unwrap();
        let faults = [
            ("/v2/x", said(200, "application/json", good), "path is not described"),
            ("/v1/fixed", said(200, "application/json", good), "status is not described"),
            ("/v1/x", said(201, "application/json", good), "status is not described"),
            ("/v1/x", said(200, "text/plain", good), "text/plain is not described"),
            ("/v1/x", said(200, "application/json", "{}"), "does not fit"),
            ("/v1/x", said(200, "application/json", r#"{"at": "soon"}"#), "does not fit"),
            (
                "/v1/x",
                said(200, "application/json", r#"{"at": "2026-11-21T10:00:00Z", "b": 1}"#),
                "does not fit",
            ),
            ("/v1/x", said(409, "application/problem+json", r#"{"code": "b"}"#), "does not fit"),
            (
                "/v1/x",
                Said { headers: HeaderMap::new(), ..said(200, "application/json", good) },
                "ETag is missing",
            ),
        ];
        for (path, answer, expected) in faults {
            let fault = check(path, answer).unwrap_err();
            assert!(fault.contains(expected), "{fault} should say {expected}");
        }
        assert_eq!(contract.unseen(), Vec::<String>::new());
        assert!(contract.seen.contains("get /v1/{id} 200"));
    }
}
