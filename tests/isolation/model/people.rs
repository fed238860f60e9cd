//! Who asks, with what about them, and for what.

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::{dice::Dice, layers::Sharing};

/// What authentication outside of the layer has found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant(pub String);

/// The number of a request, for the origin alone.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub usize);

/// The origin answers when it is told to.
#[derive(Debug, Clone, Copy)]
pub struct Held;

/// Fields by which somebody is known without a word from the application: `rules.md`, "Requests that
/// are not shared".
const IDENTITY: &[&str] = &[
    "proxy-authorization",
    "x-api-key",
    "x-auth-token",
    "x-access-token",
    "x-csrf-token",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-auth-request-user",
    "x-auth-request-email",
    "remote-user",
    "x-remote-user",
    "x-amzn-oidc-data",
    "x-goog-authenticated-user-email",
    "x-goog-iap-jwt-assertion",
    "cf-access-authenticated-user-email",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "tailscale-user-login",
    "x-client-cert",
    "x-ssl-client-s-dn",
    "ssl-client-cert",
];

/// Fields that mean something to most handlers, and are not in `Vary`.
pub const UNSEEN: &[&str] = &["hx-request", "x-forwarded-host", "x-requested-with"];

/// What a person carries.
#[derive(Debug, Clone)]
pub struct Person {
    number: usize,
    carries: Vec<&'static str>,
    tenant: Option<String>,
}

impl Person {
    pub fn random(number: usize, dice: &mut Dice) -> Self {
        let mut carries = Vec::new();
        for _ in 0..[0, 0, 1, 1, 1, 2][dice.below(6)] {
            carries.push(match dice.below(8) {
                0..3 => "cookie",
                3..5 => "authorization",
                5 => "x-session",
                _ => dice.of(IDENTITY),
            });
        }
        carries.dedup();
        Self {
            number,
            carries,
            tenant: (!dice.one_in(4)).then(|| format!("t{}", dice.below(2))),
        }
    }
}

/// A request, as its client sent it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub number: usize,
    pub person: usize,
    /// Which of the services of a case.
    pub app: usize,
    pub method: &'static str,
    pub path: usize,
    pub query: Option<String>,
    pub host: &'static str,
    pub fields: Vec<(&'static str, String)>,
    pub tenant: Option<String>,
    pub is_held: bool,
}

/// What of a person stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personal {
    No,
    /// `Authorization`, and nothing else.
    Authorization,
    Yes,
}

impl Asked {
    pub fn random(
        number: usize,
        person: &Person,
        apps: usize,
        tags: &[String],
        is_plain: bool,
        dice: &mut Dice,
    ) -> Self {
        let mut asked = Self {
            number,
            person: person.number,
            app: dice.below(apps),
            method: match dice.below(20) {
                0..3 => "HEAD",
                3 => dice.of(&["POST", "DELETE"]),
                _ => "GET",
            },
            path: [0, 0, 0, 0, 1][dice.below(5)],
            query: [
                None,
                None,
                None,
                None,
                Some("a=1"),
                Some("a=1&u=2"),
                Some("a=1&u=3"),
                Some("b=1&a=2"),
            ][dice.below(8)]
            .map(str::to_owned),
            host: dice.of(&["one.example", "one.example", "one.example", "two.example"]),
            fields: Vec::new(),
            tenant: person.tenant.clone(),
            is_held: false,
        };
        asked.identify(person, dice);
        match is_plain {
            true => (asked.path, asked.host, asked.query) = (0, "one.example", None),
            false => asked.select(dice),
        }
        asked.condition(tags, dice);
        asked.demand(dice);
        asked
    }

    fn identify(&mut self, person: &Person, dice: &mut Dice) {
        let who = person.number;
        let mut cookies = Vec::new();
        if !dice.one_in(8) {
            for name in &person.carries {
                match *name {
                    "cookie" => cookies.push(format!("session=s{who}")),
                    "authorization" => self.fields.push((name, format!("Bearer b{who}"))),
                    name => self.fields.push((name, format!("u{who}"))),
                }
            }
        }
        if dice.one_in(4) {
            cookies.push(format!("_ga=g{who}"));
        }
        if dice.one_in(6) {
            cookies.push(format!("lang={}", dice.of(&["de", "en"])));
        }
        if cookies.len() > 1 && dice.one_in(3) {
            // HTTP/2 sends them so.
            for cookie in cookies {
                self.fields.push(("cookie", cookie));
            }
        } else if !cookies.is_empty() {
            self.fields.push(("cookie", cookies.join("; ")));
        }
    }

    /// What chooses among representations.
    fn select(&mut self, dice: &mut Dice) {
        const VALUES: &[(&str, usize, &[&str])] = &[
            ("accept-language", 3, &["de", "en"]),
            ("accept-encoding", 4, &["gzip", "br"]),
            ("x-theme", 4, &["dark", "light"]),
            ("origin", 8, &["https://a.example", "https://b.example"]),
            ("hx-request", 12, &["true"]),
            ("x-forwarded-host", 12, &["three.example", "four.example"]),
            ("x-requested-with", 12, &["XMLHttpRequest"]),
        ];
        for (name, n, values) in VALUES {
            if dice.one_in(*n) {
                self.fields.push((name, dice.of(values).to_owned()));
            }
        }
    }

    /// What is answered with less than all of it.
    fn condition(&mut self, tags: &[String], dice: &mut Dice) {
        const VALUES: &[(&str, usize, &[&str])] = &[
            (
                "range",
                8,
                &["bytes=0-60", "bytes=-60", "bytes=30-", "bytes=0-40, 60-120"],
            ),
            (
                "if-modified-since",
                10,
                &[
                    "Thu, 01 Jan 2026 11:00:00 GMT",
                    "Fri, 01 Jan 2027 11:00:00 GMT",
                ],
            ),
            ("if-match", 40, &["\"e0\""]),
        ];
        for (name, n, values) in VALUES {
            if dice.one_in(*n) {
                self.fields.push((name, dice.of(values).to_owned()));
            }
        }
        if !tags.is_empty() && dice.one_in(3) {
            let mut tag = tags[dice.below(tags.len())].clone();
            if dice.one_in(4) {
                tag = format!("\"x\", {tag}");
            }
            self.fields.push(("if-none-match", tag));
        } else if dice.one_in(40) {
            self.fields.push(("if-none-match", "*".to_owned()));
        }
        if !tags.is_empty() && dice.one_in(20) {
            let tag = tags[dice.below(tags.len())].clone();
            self.fields.push(("if-range", tag));
        }
    }

    fn demand(&mut self, dice: &mut Dice) {
        const DEMANDS: &[&str] = &[
            "no-cache",
            "no-cache",
            "no-store",
            "max-age=0",
            "max-age=3",
            "max-stale",
            "max-stale=60",
            "min-fresh=5",
            "only-if-cached",
            "only-if-cached, max-stale",
        ];
        if dice.one_in(6) {
            let demand = dice.of(DEMANDS).to_owned();
            self.fields.push(("cache-control", demand));
        }
        if dice.one_in(30) {
            self.fields.push(("pragma", "no-cache".to_owned()));
        }
    }

    /// As it is sent.
    pub fn request(&self) -> Request<Body> {
        let mut uri = format!("/p{}", self.path);
        if let Some(query) = &self.query {
            uri = format!("{uri}?{query}");
        }
        let request = Request::builder().method(self.method).uri(uri);
        let mut request = request.body(Body::empty()).expect("a request");
        *request.headers_mut() = self.headers();
        let extensions = request.extensions_mut();
        extensions.insert(Number(self.number));
        if let Some(tenant) = &self.tenant {
            extensions.insert(Tenant(tenant.clone()));
        }
        if self.is_held {
            extensions.insert(Held);
        }
        request
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static(self.host));
        for (name, value) in &self.fields {
            let value = HeaderValue::from_str(value).expect("a field value");
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    /// All lines of a field.
    pub fn lines(&self, name: &str) -> Vec<&str> {
        let lines = self.fields.iter().filter(|(known, _)| *known == name);
        lines.map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.lines(name).is_empty()
    }

    /// Its cookies, as name and value.
    pub fn cookies(&self) -> Vec<(String, String)> {
        let lines = self.lines("cookie").join("; ");
        let pairs = lines.split("; ").filter_map(|pair| pair.split_once('='));
        pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// Whether a layer with these settings takes it for somebody's own; partitions aside.
    pub fn personal(&self, sharing: &Sharing) -> Personal {
        let is_careful = !sharing.is_rfc9111;
        let is_allowed =
            |name| sharing.allows_keys && ["x-api-key", "x-csrf-token"].contains(&name);
        let has_identity = IDENTITY
            .iter()
            .any(|name| self.has(name) && !is_allowed(*name));
        let has_session = sharing.adds_session && self.has("x-session");
        let has_cookie = self
            .cookies()
            .iter()
            .any(|(name, _)| !sharing.ignores_cookie(name) && !sharing.varies_on(name));
        if has_session || (is_careful && (has_identity || has_cookie)) {
            Personal::Yes
        } else if self.has("authorization") {
            Personal::Authorization
        } else {
            Personal::No
        }
    }

    /// As a layer with these settings hands it on.
    pub fn reduced(&self, sharing: &Sharing) -> Self {
        let mut reduced = self.clone();
        let cookies = self.cookies();
        let kept = cookies
            .iter()
            .filter(|(name, _)| !sharing.ignores_cookie(name));
        let kept: Vec<_> = kept
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        reduced.fields.retain(|(name, _)| *name != "cookie");
        if !kept.is_empty() {
            reduced.fields.push(("cookie", kept.join("; ")));
        }
        let query = sharing.query(self);
        reduced.query = (!query.is_empty()).then(|| query.join("&"));
        reduced
    }
}

/// Whether a field is one of those by which somebody is known.
pub fn is_identity(name: &str) -> bool {
    IDENTITY.contains(&name)
}
