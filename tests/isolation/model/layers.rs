//! Settings of layers: as the layer is told them, and what they mean for who may share.

use std::time::Duration;

use http::HeaderName;
use tower_response_cache::{Cache, Credentials, HonoredDirectives, Query, ResponseCacheLayer};

use super::{
    dice::Dice,
    people::{Asked, Tenant},
};

/// Which parameters of a query count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameters {
    All,
    /// All but `u*`.
    Ignoring,
    /// Only `a`.
    Only,
    Sorted,
}

/// The settings that decide who shares with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    pub is_rfc9111: bool,
    pub parameters: Parameters,
    /// `_ga*`
    pub ignores_cookies: bool,
    /// `lang`
    pub varies_on_cookie: bool,
    pub is_partitioned: bool,
    /// `X-Session` identifies somebody.
    pub adds_session: bool,
    /// `X-Api-Key` and `X-Csrf-Token` do not.
    pub allows_keys: bool,
    pub strips_cookies: bool,
    pub ignores_host: bool,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub sharing: Sharing,
    ttl: Option<u64>,
    force_ttl: Option<u64>,
    negative_ttl: Option<u64>,
    stale_while_revalidate: Option<u64>,
    stale_if_error: Option<u64>,
    directives: Option<HonoredDirectives>,
    detach: bool,
    weak_etags: Option<bool>,
    wait_timeout: Option<u64>,
}

impl Spec {
    pub fn random(dice: &mut Dice) -> Self {
        let sometimes = |dice: &mut Dice, n, values: &[u64]| {
            let value = dice.of(values);
            dice.one_in(n).then_some(value)
        };
        let parameters = match dice.below(6) {
            0 => Parameters::Ignoring,
            1 => Parameters::Only,
            2 => Parameters::Sorted,
            _ => Parameters::All,
        };
        let sharing = Sharing {
            is_rfc9111: dice.one_in(3),
            parameters,
            ignores_cookies: dice.one_in(3),
            varies_on_cookie: dice.one_in(4),
            is_partitioned: dice.one_in(4),
            adds_session: dice.one_in(4),
            allows_keys: dice.one_in(5),
            strips_cookies: dice.one_in(4),
            ignores_host: dice.one_in(5),
        };
        let mut spec = Self {
            sharing,
            ttl: None,
            force_ttl: sometimes(dice, 8, &[0, 40]),
            negative_ttl: sometimes(dice, 4, &[10, 40]),
            stale_while_revalidate: sometimes(dice, 3, &[5, 100]),
            stale_if_error: sometimes(dice, 3, &[5, 300]),
            directives: None,
            detach: !dice.one_in(5),
            weak_etags: dice.one_in(4).then_some(true),
            wait_timeout: sometimes(dice, 12, &[0, 1]),
        };
        spec.ttl = sometimes(dice, 2, &[0, 5, 300, 300]);
        spec.directives = match dice.below(4) {
            0 => Some(HonoredDirectives::All),
            1 => Some(HonoredDirectives::OnlyIfCached),
            _ => None,
        };
        spec
    }

    /// The same but for what says nothing about sharing.
    pub fn with_other_times(&self, dice: &mut Dice) -> Self {
        Self {
            sharing: self.sharing,
            ..Self::random(dice)
        }
    }

    /// The layer itself.
    pub fn layer(&self, cache: &Cache) -> ResponseCacheLayer {
        self.apply(match self.sharing.is_rfc9111 {
            true => ResponseCacheLayer::rfc9111(cache),
            false => ResponseCacheLayer::new(cache),
        })
    }

    fn apply(&self, mut layer: ResponseCacheLayer) -> ResponseCacheLayer {
        let sharing = &self.sharing;
        layer = match sharing.parameters {
            Parameters::All => layer,
            Parameters::Ignoring => layer.query(Query::ignore(["u*"])),
            Parameters::Only => layer.query(Query::only(["a"])),
            Parameters::Sorted => layer.query(Query::default().sort()),
        };
        if sharing.ignores_cookies {
            layer = layer.ignore_cookies(["_ga*"]);
        }
        if sharing.varies_on_cookie {
            layer = layer.vary_on_cookie("lang");
        }
        if sharing.is_partitioned {
            let tenant = |head: &http::request::Parts| head.extensions.get::<Tenant>().cloned();
            layer = layer.partition_by("tenant", move |head| tenant(head).map(|tenant| tenant.0));
        }
        let mut credentials = Credentials::default();
        if sharing.adds_session {
            credentials = credentials.add(HeaderName::from_static("x-session"));
        }
        if sharing.allows_keys {
            credentials = credentials
                .allow(HeaderName::from_static("x-api-key"))
                .allow(HeaderName::from_static("x-csrf-token"));
        }
        layer = layer.credentials(credentials);
        if sharing.strips_cookies {
            layer = layer.store_without_set_cookie();
        }
        if sharing.ignores_host {
            layer = layer.ignore_host();
        }
        self.set_times(layer)
    }

    /// What may differ between clones of a layer that share.
    pub fn set_times(&self, mut layer: ResponseCacheLayer) -> ResponseCacheLayer {
        type Setting = fn(ResponseCacheLayer, Duration) -> ResponseCacheLayer;
        let times: [(Option<u64>, Setting); 6] = [
            (self.ttl, ResponseCacheLayer::ttl),
            (self.force_ttl, ResponseCacheLayer::force_ttl),
            (self.negative_ttl, ResponseCacheLayer::negative_ttl),
            (
                self.stale_while_revalidate,
                ResponseCacheLayer::stale_while_revalidate,
            ),
            (self.stale_if_error, ResponseCacheLayer::stale_if_error),
            (self.wait_timeout, ResponseCacheLayer::wait_timeout),
        ];
        for (seconds, set) in times {
            if let Some(seconds) = seconds {
                layer = set(layer, Duration::from_secs(seconds));
            }
        }
        if let Some(directives) = self.directives {
            layer = layer.request_directives(directives);
        }
        if let Some(weak_etags) = self.weak_etags {
            layer = layer.weak_etags(weak_etags);
        }
        layer.detach(self.detach)
    }
}

impl Sharing {
    pub fn declares_cookies(&self) -> bool {
        self.ignores_cookies || self.varies_on_cookie
    }

    pub fn ignores_cookie(&self, name: &str) -> bool {
        self.ignores_cookies && name.starts_with("_ga")
    }

    pub fn varies_on(&self, name: &str) -> bool {
        self.varies_on_cookie && name == "lang"
    }

    /// What of a query counts.
    pub fn query(&self, asked: &Asked) -> Vec<String> {
        let all = asked.query.iter().flat_map(|query| query.split('&'));
        let name = |parameter: &str| parameter.split('=').next().unwrap_or_default().to_owned();
        let kept = all.filter(|parameter| match self.parameters {
            Parameters::All | Parameters::Sorted => true,
            Parameters::Ignoring => !name(parameter).starts_with('u'),
            Parameters::Only => name(parameter) == "a",
        });
        let mut kept: Vec<String> = kept.map(str::to_owned).collect();
        if self.parameters == Parameters::Sorted {
            kept.sort_by_key(|parameter| name(parameter));
        }
        kept
    }
}
