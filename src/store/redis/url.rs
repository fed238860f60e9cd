//! The URL of a server, taken apart here, so that every mistake is one sentence before anything
//! runs. No sentence shows a password, nor what may be a part of one.

use fred::types::{
    RespVersion,
    config::{Config, ServerConfig},
};

use crate::error::BuildError;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const FORMS: &str = "write it as redis://user:password@host:6379/0";

/// How a server is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Tls,
    Unix,
}

/// What the hosts of a URL are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hosts {
    /// The server itself.
    Server,
    /// Some nodes of a cluster; the others are found by them.
    Cluster,
    /// Sentinels, who know which server is the primary.
    Sentinel,
}

/// What a scheme stands for.
fn meaning(scheme: &str) -> Result<(Transport, Hosts), BuildError> {
    let scheme = scheme.to_ascii_lowercase();
    let (transport, hosts) = match scheme.rsplit_once('-') {
        Some((transport, "cluster")) => (transport, Hosts::Cluster),
        Some((transport, "sentinel")) => (transport, Hosts::Sentinel),
        _ => (&*scheme, Hosts::Server),
    };
    let transport = match transport {
        "redis" | "valkey" => Transport::Tcp,
        "rediss" | "valkeys" if cfg!(feature = "redis-tls") => Transport::Tls,
        "rediss" | "valkeys" => {
            return Err(BuildError::redis_url(
                "a URL with rediss:// needs TLS; enable the feature `redis-tls` of tower-response-cache",
            ));
        }
        "redis+unix" | "valkey+unix" | "unix" if hosts != Hosts::Server => {
            return Err(BuildError::redis_url(
                "cluster and sentinel are not reached by unix sockets; \
                 use redis-cluster:// or redis-sentinel:// with hosts",
            ));
        }
        "redis+unix" | "valkey+unix" | "unix" if cfg!(unix) => Transport::Unix,
        "redis+unix" | "valkey+unix" | "unix" => {
            return Err(BuildError::redis_url(
                "this system has no unix sockets; use redis:// with a host",
            ));
        }
        _ => return Err(BuildError::redis_scheme(&scheme)),
    };
    Ok((transport, hosts))
}

pub(super) fn parse(url: &str) -> Result<(Config, String), BuildError> {
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(BuildError::redis_url(format!(
            "the Redis URL has a space or a line break in it; {FORMS}"
        )));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(BuildError::redis_url(format!(
            "the Redis URL has no scheme; {FORMS}"
        )));
    };
    let (transport, hosts) = meaning(scheme)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if rest.contains('#') || (transport != Transport::Unix && rest.contains('@')) {
        return Err(BuildError::redis_url(
            "the Redis URL has a character in it that must be percent-encoded; \
             write / ? # and @ in user and password as %2F %3F %23 and %40",
        ));
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (credentials, host) = match authority.rsplit_once('@') {
        Some((credentials, host)) => (Some(credentials), host),
        None => (None, authority),
    };
    let (mut user, mut password) = (None, None);
    if let Some(credentials) = credentials {
        let (name, secret) = match credentials.split_once(':') {
            Some((name, secret)) => (name, Some(secret)),
            None => (credentials, None),
        };
        user = Some(decoded(name)?).filter(|user| !user.is_empty());
        password = secret.map(decoded).transpose()?;
    }
    let mut database = None;
    let mut for_sentinels = (None, None);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "db" if transport == Transport::Unix => database = Some(value),
            "user" | "username" if transport == Transport::Unix => user = Some(decoded(value)?),
            "pass" | "password" if transport == Transport::Unix => password = Some(decoded(value)?),
            "sentinelUsername" if hosts == Hosts::Sentinel => {
                for_sentinels.0 = Some(decoded(value)?);
            }
            "sentinelPassword" if hosts == Hosts::Sentinel => {
                for_sentinels.1 = Some(decoded(value)?);
            }
            _ => return Err(unknown_query()),
        }
    }
    if query
        .split('&')
        .any(|pair| !pair.is_empty() && !pair.contains('='))
    {
        return Err(unknown_query());
    }
    let (server, at) = match transport {
        Transport::Unix => unix(host, path)?,
        Transport::Tcp | Transport::Tls => {
            let path = path.trim_start_matches('/');
            let (config, number, at) = servers(hosts, host, path, for_sentinels)?;
            database = Some(number).filter(|number| !number.is_empty());
            (config, at)
        }
    };
    let database = match database {
        None => None,
        Some(number) => Some(number.parse::<u8>().map_err(|_| {
            BuildError::redis_url(
                "the database of the Redis URL is not a number from 0 to 255; \
                 write it as redis://host:6379/0",
            )
        })?),
    };
    // A user without a password is one who needs none.
    if user.is_some() && password.is_none() {
        password = Some(String::new());
    }
    if user.is_none() {
        password = password.filter(|password| !password.is_empty());
    }
    let config = Config {
        server,
        username: user,
        password,
        database,
        version: RespVersion::RESP3,
        fail_fast: true,
        #[cfg(feature = "redis-tls")]
        tls: match transport {
            Transport::Tls => Some(tls()?),
            Transport::Tcp | Transport::Unix => None,
        },
        ..Config::default()
    };
    Ok((config, at))
}

/// Who is to be asked, what of the path is the number of the database, and who that is for people.
fn servers<'a>(
    hosts: Hosts,
    authority: &str,
    path: &'a str,
    for_sentinels: (Option<String>, Option<String>),
) -> Result<(ServerConfig, &'a str, String), BuildError> {
    if hosts == Hosts::Server && authority.contains(',') {
        return Err(BuildError::redis_url(
            "the Redis URL has several hosts; write those of a cluster as redis-cluster://host,host \
             and those of sentinels as redis-sentinel://host,host/service-name",
        ));
    }
    let port = if hosts == Hosts::Sentinel {
        SENTINEL_PORT
    } else {
        PORT
    };
    let several = authority.split(',').map(|host| host_and_port(host, port));
    let several = several.collect::<Result<Vec<_>, _>>()?;
    let shown = several.iter().map(|(host, port)| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    });
    let at = shown.collect::<Vec<_>>().join(",");
    Ok(match hosts {
        Hosts::Server => {
            let (host, port) = several.into_iter().next().ok_or_else(bad_host)?;
            (ServerConfig::new_centralized(host, port), path, at)
        }
        Hosts::Cluster => {
            if !path.is_empty() && path != "0" {
                return Err(BuildError::redis_url(
                    "a cluster has neither another database than 0 nor the name of a service; \
                     write it as redis-cluster://user:password@host:6379,host2:6379",
                ));
            }
            (ServerConfig::new_clustered(several), "", at)
        }
        Hosts::Sentinel => {
            let (service, number) = path.split_once('/').unwrap_or((path, ""));
            let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if service.is_empty() || !service.bytes().all(is_good) {
                return Err(BuildError::redis_url(
                    "the Redis URL lacks the name of a service that sentinels know; \
                     write it as redis-sentinel://user:password@host:26379,host2:26379/service-name",
                ));
            }
            let mut server = ServerConfig::new_sentinel(several, service);
            if let ServerConfig::Sentinel {
                username, password, ..
            } = &mut server
            {
                (*username, *password) = for_sentinels;
            }
            (server, number, format!("{service} (of the sentinels {at})"))
        }
    })
}

fn unknown_query() -> BuildError {
    BuildError::redis_url(
        "the Redis URL has a query that is not known; write the database as in \
         redis://host:6379/0, or for a socket as in redis+unix:///run/redis.sock?db=0",
    )
}

fn unix(host: &str, path: &str) -> Result<(ServerConfig, String), BuildError> {
    let path = decoded(path)?;
    if !host.is_empty() || path.len() < 2 {
        return Err(BuildError::redis_url(
            "the Redis URL has no path of a socket; write it as redis+unix:///run/redis.sock?db=0",
        ));
    }
    let server = ServerConfig::Unix {
        path: path.clone().into(),
    };
    Ok((server, path))
}

fn host_and_port(authority: &str, default: u16) -> Result<(String, u16), BuildError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let Some((host, port)) = v6.split_once(']') else {
                return Err(bad_host());
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad_host());
            }
            (
                host,
                port.strip_prefix(':').or((port.is_empty()).then_some("")),
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    let port = match port {
        Some("") => default,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            BuildError::redis_url(format!(
                "the port of the Redis URL is not a number from 1 to 65535; {FORMS}"
            ))
        })?,
        None => return Err(bad_host()),
    };
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    match !host.is_empty() && host.bytes().all(is_good) {
        true => Ok((host.to_owned(), port)),
        false => Err(bad_host()),
    }
}

fn bad_host() -> BuildError {
    BuildError::redis_url(format!("the Redis URL has no host in it; {FORMS}"))
}

/// What stands percent-encoded in a URL.
fn decoded(text: &str) -> Result<String, BuildError> {
    let bad = || {
        BuildError::redis_url(
            "the Redis URL has a % that begins no character; \
             write a percent sign in user, password or path as %25",
        )
    };
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        let digit = |at: usize| {
            let digit = bytes.get(at).copied().map(char::from);
            digit.and_then(|digit| digit.to_digit(16)).ok_or_else(bad)
        };
        let value = digit(at + 1)? * 16 + digit(at + 2)?;
        out.push(u8::try_from(value).map_err(|_| bad())?);
        at += 3;
    }
    String::from_utf8(out).map_err(|_| bad())
}

/// The certificates of the system, and ring, whatever else the process has.
#[cfg(feature = "redis-tls")]
fn tls() -> Result<fred::types::config::TlsConfig, BuildError> {
    use fred::{
        rustls::{ClientConfig, RootCertStore, crypto::ring},
        types::config::TlsConnector,
    };
    let mut roots = RootCertStore::empty();
    let system = fred::rustls_native_certs::load_native_certs();
    let (good, _) = roots.add_parsable_certificates(system.certs);
    if good == 0 {
        return Err(BuildError::redis_url(
            "no certificate of an authority was found on this system, which rediss:// needs; \
             install ca-certificates, or name a file in SSL_CERT_FILE",
        ));
    }
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::redis_url(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(config).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::settings::{Given, Target};

    fn target(url: &str) -> Result<Target, BuildError> {
        Target::new(Given {
            url: url.to_owned(),
            namespace: "shop".to_owned(),
            pool_size: 2,
            ..Given::default()
        })
    }

    #[test]
    fn urls_name_server_user_password_and_database() {
        type Row<'a> = (
            &'a str,
            &'a str,
            Option<&'a str>,
            Option<&'a str>,
            Option<u8>,
        );
        let rows: &[Row<'_>] = &[
            ("redis://host", "host:6379", None, None, None),
            ("redis://host:6380/", "host:6380", None, None, None),
            ("redis://host/0", "host:6379", None, None, Some(0)),
            ("REDIS://1.2.3.4/15", "1.2.3.4:6379", None, None, Some(15)),
            ("valkey://host", "host:6379", None, None, None),
            ("redis://[::1]:7000/3", "[::1]:7000", None, None, Some(3)),
            ("redis://[::1]", "[::1]:6379", None, None, None),
            ("redis://:word@host", "host:6379", None, Some("word"), None),
            (
                "redis://me:word@host",
                "host:6379",
                Some("me"),
                Some("word"),
                None,
            ),
            (
                "redis://me:a:b@host",
                "host:6379",
                Some("me"),
                Some("a:b"),
                None,
            ),
            (
                "redis://me:a%2F%40%c3%a9@host",
                "host:6379",
                Some("me"),
                Some("a/@é"),
                None,
            ),
            ("redis://me@host", "host:6379", Some("me"), Some(""), None),
            ("redis://:@host", "host:6379", None, None, None),
            ("redis+unix:///run/r.sock", "/run/r.sock", None, None, None),
            (
                "unix:///run/r.sock?db=2",
                "/run/r.sock",
                None,
                None,
                Some(2),
            ),
            (
                "valkey+unix:///a%20b?user=me&pass=x%26y",
                "/a b",
                Some("me"),
                Some("x&y"),
                None,
            ),
            (
                "redis+unix://me:x@/run/r.sock?db=2",
                "/run/r.sock",
                Some("me"),
                Some("x"),
                Some(2),
            ),
        ];
        for (url, at, user, password, database) in rows {
            let target = target(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(target.at, *at, "{url}");
            assert_eq!(target.config.username.as_deref(), *user, "{url}");
            assert_eq!(target.config.password.as_deref(), *password, "{url}");
            assert_eq!(target.config.database, *database, "{url}");
        }
    }

    #[test]
    fn urls_name_the_nodes_of_a_cluster() {
        let target = target("valkey-cluster://me:word@a:7000,[::1],c/0").expect("a good URL");
        assert_eq!(target.at, "a:7000,[::1]:6379,c:6379");
        let hosts = [("a", 7000), ("::1", 6379), ("c", 6379)];
        let expected = ServerConfig::new_clustered(hosts.to_vec());
        assert_eq!(target.config.server, expected);
        assert_eq!(target.config.username.as_deref(), Some("me"));
        assert_eq!(target.config.password.as_deref(), Some("word"));
        assert_eq!(target.config.database, None);
    }

    #[test]
    fn urls_name_sentinels_and_a_service() {
        let url = "redis-sentinel://me:word@a,b:7000/the-primary/3";
        let plain = target(url).expect("a good URL");
        assert_eq!(plain.at, "the-primary (of the sentinels a:26379,b:7000)");
        let hosts = [("a", 26379), ("b", 7000)];
        let expected = ServerConfig::new_sentinel(hosts.to_vec(), "the-primary");
        // The password of the servers is none of the sentinels' business.
        assert_eq!(plain.config.server, expected);
        assert_eq!(plain.config.password.as_deref(), Some("word"));
        assert_eq!(plain.config.database, Some(3));
        let url = format!("{url}?sentinelUsername=you&sentinelPassword=x%26y");
        match target(&url).expect("a good URL").config.server {
            ServerConfig::Sentinel {
                username, password, ..
            } => {
                assert_eq!(username.as_deref(), Some("you"));
                assert_eq!(password.as_deref(), Some("x&y"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_one_sentence_without_the_password() {
        let rows = [
            ("", "no scheme"),
            ("localhost:6379", "no scheme"),
            (
                "http://host",
                "http:// is not a scheme of Redis; use redis://",
            ),
            ("://host", "does not begin with a scheme"),
            ("redis-cluster://", "no host"),
            ("redis-cluster://a,,b", "no host"),
            ("redis-cluster://a,b:0", "not a number from 1 to 65535"),
            ("redis-cluster://a/3", "neither another database"),
            ("redis-cluster://a/service", "nor the name of a service"),
            (
                "redis-cluster://a?sentinelPassword=sec",
                "query that is not known",
            ),
            ("redis-sentinel://a", "lacks the name of a service"),
            ("redis-sentinel://a/", "lacks the name of a service"),
            ("redis-sentinel://a/ser:vice", "lacks the name of a service"),
            ("redis-sentinel://a/service/x", "not a number from 0 to 255"),
            (
                "redis-sentinel://a/service?node=b",
                "query that is not known",
            ),
            ("redis-sentinel://:sec@/service", "no host"),
            ("unix-cluster:///sock", "not reached by unix sockets"),
            ("redis-pool://a", "redis-pool:// is not a scheme"),
            ("redis://a,b", "several hosts; write those of a cluster"),
            ("redis://", "no host"),
            ("redis://:secret@", "no host"),
            ("redis://:secret@:6379", "no host"),
            ("redis://[::1", "no host"),
            ("redis://ho{st", "no host"),
            ("redis://host:port", "not a number from 1 to 65535"),
            ("redis://host:0", "not a number from 1 to 65535"),
            ("redis://host:65536", "not a number from 1 to 65535"),
            ("redis://host/one", "not a number from 0 to 255"),
            ("redis://host/-1", "not a number from 0 to 255"),
            ("redis://host/256", "not a number from 0 to 255"),
            ("redis://host/0/1", "not a number from 0 to 255"),
            ("redis://host?db=1", "query that is not known"),
            ("redis+unix:///sock?base=1", "query that is not known"),
            ("redis+unix:///sock?db", "query that is not known"),
            ("redis+unix://", "path of a socket"),
            ("redis+unix://run/r.sock", "path of a socket"),
            ("redis://me:sec/ret@host", "percent-encoded"),
            ("redis://me:sec#ret@host", "percent-encoded"),
            ("redis://me:sec?ret@host", "percent-encoded"),
            ("redis://me:sec%zzret@host", "as %25"),
            ("redis://me:sec%ffret@host", "as %25"),
            ("redis://me:secret%2@host", "as %25"),
            ("redis://me:sec ret@host", "a space or a line break"),
            ("redis://host\n", "a space or a line break"),
        ];
        for (url, expected) in rows {
            let error = target(url).map(|target| target.at).unwrap_err().to_string();
            assert!(error.contains(expected), "{url:?}: {error}");
            assert!(!error.contains("sec"), "{url:?}: {error}");
            assert!(
                !error.contains('\n') && !error.contains(". "),
                "{url:?}: {error}"
            );
        }
    }

    #[test]
    fn tls_needs_its_feature() {
        match target("rediss://host:6380") {
            Ok(target) => assert!(cfg!(feature = "redis-tls") && target.config.uses_tls()),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !cfg!(feature = "redis-tls") || error.contains("certificate"),
                    "{error}"
                );
                assert!(
                    cfg!(feature = "redis-tls") || error.contains("redis-tls"),
                    "{error}"
                );
            }
        }
    }
}
