//! What a listener serves, as an OpenAPI 3.1 document: made at boot from the same types and codes that answers are made of.
//!
//! A [`Route`] names the codes that it may refuse with; statuses, the schema of each problem and its headers follow from them.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::HttpResponse;
use actix_web::web::{self, Bytes};
use coupon_domain::code::{ClaimCode, CommandCode, Refusal};
use coupon_domain::limits::IDEMPOTENCY_KEY_CHARS_MAX;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AdditionalProperties, AllOfBuilder, ComponentsBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::{Code, PROBLEM_JSON, ProblemDetails};

/// The version of the API: the `v1` of its paths.
pub const API_VERSION: &str = "1";

/// Name of the scheme for tokens of `auth.audience`.
const USER: &str = "user";
/// Name of the scheme for tokens of `auth.admin.audience`.
const OPERATOR: &str = "operator";
/// Name of the scheme for a claim's own token.
const STREAM_TOKEN: &str = "stream_token";

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Users.
    User,
    /// Users, or whoever holds the claim's stream token.
    UserOrStreamToken,
    /// Operators, with the scopes that the route names.
    Operator,
}

impl Access {
    fn schemes(self) -> impl Iterator<Item = &'static str> {
        let schemes: &[&str] = match self {
            Self::Public => &[],
            Self::User => &[USER],
            Self::UserOrStreamToken => &[USER, STREAM_TOKEN],
            Self::Operator => &[OPERATOR],
        };
        schemes.iter().copied()
    }
}

/// One route.
pub struct Route {
    method: HttpMethod,
    path: &'static str,
    access: Access,
    operation: OperationBuilder,
    problems: BTreeSet<Code>,
    schemas: Schemas,
}

impl Route {
    /// `GET`: `id` is the operation's name in generated clients, `summary` says what it is for.
    #[must_use]
    pub fn get(path: &'static str, id: &str, access: Access, summary: &str) -> Self {
        Self::new(HttpMethod::Get, path, id, access, summary)
    }

    /// `POST`, likewise.
    #[must_use]
    pub fn post(path: &'static str, id: &str, access: Access, summary: &str) -> Self {
        Self::new(HttpMethod::Post, path, id, access, summary)
    }

    fn new(method: HttpMethod, path: &'static str, id: &str, access: Access, summary: &str) -> Self {
        let requirement = |scheme: &'static str| SecurityRequirement::new(scheme, Vec::<String>::new());
        let operation = OperationBuilder::new()
            .operation_id(Some(id))
            .summary(Some(summary))
            .securities(Some(access.schemes().map(requirement)));
        let mut problems = BTreeSet::from([Code::Internal]);
        if access != Access::Public {
            problems.insert(Code::Unauthorized);
        }
        if access == Access::Operator {
            problems.insert(Code::Forbidden);
        }
        Self { method, path, access, operation, problems, schemas: Schemas::new() }
    }

    /// More about it than fits into a line.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        self.operation = self.operation.description(Some(text));
        self
    }

    /// A segment of the path.
    #[must_use]
    pub fn path_parameter(self, name: &str, description: &str) -> Self {
        self.parameter(ParameterIn::Path, name, description, true, text())
    }

    /// A segment of the path that is one of these words.
    #[must_use]
    pub fn path_word(self, name: &str, description: &str, words: &[&str]) -> Self {
        self.parameter(ParameterIn::Path, name, description, true, one_of(words))
    }

    /// A parameter of the query, which may be left out.
    #[must_use]
    pub fn query(self, name: &str, description: &str, schema: ObjectBuilder) -> Self {
        self.parameter(ParameterIn::Query, name, description, false, schema)
    }

    /// A header, which may be left out.
    #[must_use]
    pub fn header(self, name: &str, description: &str) -> Self {
        self.parameter(ParameterIn::Header, name, description, false, text())
    }

    /// `Idempotency-Key`.
    #[must_use]
    pub fn idempotency_key(self, required: bool, description: &str) -> Self {
        let schema = text().min_length(Some(1)).max_length(Some(IDEMPOTENCY_KEY_CHARS_MAX));
        self.parameter(ParameterIn::Header, "Idempotency-Key", description, required, schema)
    }

    /// `Prefer: wait=n`, up to so many seconds where that is fixed.
    #[must_use]
    pub fn prefer_wait(self, description: &str) -> Self {
        let schema = text().examples(["wait=10"]);
        self.parameter(ParameterIn::Header, "Prefer", description, false, schema)
    }

    fn parameter(
        mut self,
        place: ParameterIn,
        name: &str,
        description: &str,
        required: bool,
        schema: ObjectBuilder,
    ) -> Self {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .description(Some(description))
            .required(if required { Required::True } else { Required::False })
            .schema(Some(schema));
        self.operation = self.operation.parameter(parameter);
        self.problems.insert(Code::InvalidRequest);
        self
    }

    /// A body of JSON.
    #[must_use]
    pub fn body<T: ToSchema>(mut self, required: bool) -> Self {
        let content = ContentBuilder::new().schema(Some(self.reference::<T>())).build();
        let required = if required { Required::True } else { Required::False };
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(required));
        self.operation = self.operation.request_body(Some(body.build()));
        self.problems.extend([Code::InvalidRequest, Code::RequestTimeout, Code::PayloadTooLarge]);
        self
    }

    /// No body, or an empty object.
    #[must_use]
    pub fn empty_body(mut self) -> Self {
        let schema = ObjectBuilder::new().additional_properties(Some(AdditionalProperties::FreeForm(false)));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let body =
            RequestBodyBuilder::new().content("application/json", content).required(Some(Required::False));
        self.operation = self.operation.request_body(Some(body.build()));
        self.problems.extend([Code::InvalidRequest, Code::RequestTimeout, Code::PayloadTooLarge]);
        self
    }

    /// An answer of JSON, and the headers that it always has.
    #[must_use]
    pub fn answers<T: ToSchema>(mut self, status: u16, description: &str, headers: &[(&str, &str)]) -> Self {
        let schema = self.reference::<T>();
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let mut response =
            ResponseBuilder::new().description(description).content("application/json", content);
        for (name, meaning) in headers {
            response = response.header(*name, header(text(), meaning));
        }
        self.operation = self.operation.response(status.to_string(), response);
        self
    }

    /// An answer of another kind; none: no body at all.
    #[must_use]
    pub fn answers_with(mut self, status: u16, description: &str, content_type: Option<&str>) -> Self {
        let mut response = ResponseBuilder::new().description(description);
        if let Some(content_type) = content_type {
            let schema: ObjectBuilder =
                if content_type == "application/json" { ObjectBuilder::new() } else { text() };
            response = response.content(content_type, ContentBuilder::new().schema(Some(schema)).build());
        }
        self.operation = self.operation.response(status.to_string(), response);
        self
    }

    /// Further codes that it may refuse with, besides those that follow from what it takes.
    #[must_use]
    pub fn refuses(mut self, codes: &[Code]) -> Self {
        self.problems.extend(codes);
        self
    }

    fn reference<T: ToSchema>(&mut self) -> RefOr<Schema> {
        collect::<T>(&mut self.schemas)
    }
}

/// The document of a listener.
pub struct Document {
    title: &'static str,
    description: &'static str,
    own_path: &'static str,
    routes: Vec<Route>,
    schemas: Schemas,
}

impl Document {
    /// A document that is served at `own_path`.
    #[must_use]
    pub fn new(title: &'static str, description: &'static str, own_path: &'static str) -> Self {
        let own = Route::get(own_path, "openapi", Access::Public, "This document").answers_with(
            200,
            "OpenAPI 3.1",
            Some("application/json"),
        );
        Self { title, description, own_path, routes: vec![own], schemas: Schemas::new() }
    }

    /// One more route.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// A schema that no JSON body has: the data of an event.
    #[must_use]
    pub fn schema<T: ToSchema>(mut self) -> Self {
        collect::<T>(&mut self.schemas);
        self
    }

    /// The patterns of all routes, its own included.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.routes.iter().map(|route| route.path)
    }

    /// Names that stand for different schemas in different routes: only one of them would be described, so there must be none.
    #[must_use]
    pub fn clashing_schemas(&self) -> BTreeSet<String> {
        let (mut known, mut clashing) = (BTreeMap::new(), BTreeSet::new());
        let of_routes = self.routes.iter().map(|route| &route.schemas);
        for (name, schema) in of_routes.chain([&self.schemas]).flatten() {
            let spelled = serde_json::to_string(schema).unwrap_or_default();
            if *known.entry(name).or_insert_with(|| spelled.clone()) != spelled {
                clashing.insert(name.clone());
            }
        }
        clashing
    }

    /// The document as text, the same every time.
    #[must_use]
    pub fn to_json(self) -> String {
        let mut text = self.build().to_pretty_json().unwrap_or_default();
        text.push('\n');
        text
    }

    /// Adds the route that serves it: public, since it tells nothing that the source does not. Any cache may hold it for a minute.
    pub fn serve(self) -> impl Fn(&mut web::ServiceConfig) + Send + Clone + 'static {
        let (path, text) = (self.own_path, Bytes::from(self.to_json()));
        move |app| {
            let text = text.clone();
            let answer = move || {
                let text = text.clone();
                async move {
                    HttpResponse::Ok()
                        .content_type("application/json")
                        .insert_header(("Cache-Control", "public, max-age=60"))
                        .body(text)
                }
            };
            app.route(path, web::get().to(answer));
        }
    }

    fn build(self) -> OpenApi {
        let (mut schemas, mut paths, mut schemes) = (self.schemas, Paths::new(), BTreeSet::new());
        let problem = collect::<ProblemDetails>(&mut schemas);
        for route in self.routes {
            let mut operation = route.operation;
            for (status, codes) in by_status(&route.problems) {
                operation = operation.response(status.to_string(), refusal(&problem, &codes));
            }
            schemas.extend(route.schemas);
            schemes.extend(route.access.schemes());
            paths.add_path_operation(route.path, vec![route.method], operation.build());
        }
        let components = ComponentsBuilder::new().schemas_from_iter(schemas);
        let components = schemes
            .into_iter()
            .fold(components, |components, name| components.security_scheme(name, scheme(name)));
        let info = InfoBuilder::new()
            .title(self.title)
            .version(API_VERSION)
            .description(Some(self.description))
            .build();
        OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
    }
}

/// A schema-only type: the words of a list that the domain keeps.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $words:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                one_of(&$words).into()
            }
        }

        impl ToSchema for $name {}
    };
}

words!(
    /// What the log says about a claim, or that its record could not be read.
    ClaimCodeName,
    ClaimCode::ALL.iter().map(|code| code.as_str()).chain([coupon_domain::outcome::INVALID]).collect::<Vec<_>>()
);
words!(
    /// What the log says about a command.
    CommandCodeName,
    CommandCode::ALL.map(CommandCode::as_str)
);
words!(
    /// Why the log refused a command.
    RefusalName,
    Refusal::ALL.map(Refusal::as_str)
);

/// A schema for texts.
#[must_use]
pub fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// A schema for whole numbers.
#[must_use]
pub fn number() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer)
}

fn one_of(words: &[&str]) -> ObjectBuilder {
    text().enum_values(Some(words.iter().copied()))
}

/// Adds a type's schema and those that it names; returns a reference to it.
fn collect<T: ToSchema>(schemas: &mut Schemas) -> RefOr<Schema> {
    let mut found = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut found);
    schemas.extend(found);
    Ref::from_schema_name(T::name()).into()
}

fn by_status(problems: &BTreeSet<Code>) -> BTreeMap<u16, Vec<Code>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in problems {
        by_status.entry(code.status().as_u16()).or_default().push(*code);
    }
    by_status
}

/// A problem with one of these codes, all of one status.
fn refusal(problem: &RefOr<Schema>, codes: &[Code]) -> ResponseBuilder {
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let titles: Vec<&str> = codes.iter().map(|code| code.title()).collect();
    let narrowed = ObjectBuilder::new().property("code", one_of(&names));
    let schema = AllOfBuilder::new().item(problem.clone()).item(narrowed);
    let mut response = ResponseBuilder::new()
        .description(titles.join("; "))
        .content(PROBLEM_JSON, ContentBuilder::new().schema(Some(schema)).build());
    if codes.iter().all(|code| code.retry_after_s().is_some()) {
        let meaning = "seconds after which trying again makes sense";
        response = response.header("Retry-After", header(number(), meaning));
    }
    if codes.iter().all(|code| matches!(code, Code::NotOpen | Code::Paused | Code::SoldOut | Code::Closed)) {
        response = response.header("Location", header(text(), "where the caller's own claim is answered"));
    }
    if codes.contains(&Code::Unauthorized) {
        response = response.header("WWW-Authenticate", header(text(), "Bearer"));
    }
    response
}

fn header(schema: ObjectBuilder, meaning: &str) -> Header {
    HeaderBuilder::new().schema(Some(schema)).description(Some(meaning)).build()
}

fn scheme(name: &str) -> SecurityScheme {
    let bearer = |description| {
        let http = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
        SecurityScheme::Http(http.description(Some(description)).build())
    };
    match name {
        OPERATOR => bearer("A token with the operators' aud, and the scope that the route names"),
        STREAM_TOKEN => SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::with_description(
            "token",
            "The stream_token of a 202: opens the events of that claim alone. Browsers' EventSource sends no headers",
        ))),
        _ => bearer("A token with the users' aud; its sub is the user"),
    }
}
