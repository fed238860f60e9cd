//! What the user gave, and what it makes of fred's many settings.

use std::{fmt, sync::Mutex, time::Duration};

use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, TcpConfig, UnresponsiveConfig,
};

use super::{connection::lock, url::parse};
use crate::error::BuildError;

/// To make a connection, and for each of the first questions on it.
pub(super) const CONNECT: Duration = Duration::from_millis(500);
const MOST_TO_CONNECT: Duration = Duration::from_secs(5);
/// For one command.
pub(super) const COMMAND: Duration = Duration::from_millis(40);
/// How many commands may wait for one connection.
const QUEUE: usize = 1024;
/// How long the kernel tries to deliver what nobody acknowledges.
const USER_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_POOL: usize = 64;
const MAX_NAMESPACE: usize = 64;

/// Settings as the builder of the cache was given them.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub(crate) url: String,
    pub(crate) namespace: String,
    pub(crate) pool_size: usize,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

/// The URL holds a password.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("namespace", &self.namespace)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

/// Settings that were checked.
pub(super) struct Target {
    pub(super) config: Config,
    /// That of the configuration, unless it was changed since.
    password: Mutex<Option<String>>,
    /// For people: host and port, or the path of the socket.
    pub(super) at: String,
    pub(super) namespace: String,
    pub(super) pool_size: usize,
}

impl Target {
    pub(super) fn new(settings: Given) -> Result<Self, BuildError> {
        let Given {
            url,
            namespace,
            pool_size,
            user,
            password,
        } = settings;
        check_namespace(&namespace)?;
        if !(1..=MAX_POOL).contains(&pool_size) {
            return Err(BuildError::redis_pool_size(pool_size, MAX_POOL));
        }
        let (mut config, at) = parse(&url)?;
        add_credentials(&mut config, user, password)?;
        Ok(Self {
            password: Mutex::new(config.password.clone()),
            config,
            at,
            namespace,
            pool_size,
        })
    }

    /// From now on connections are made with another password.
    pub(super) fn set_password(&self, password: String) {
        *lock(&self.password) = Some(password);
    }

    /// The keys are those of many servers.
    pub(super) fn is_clustered(&self) -> bool {
        self.config.server.is_clustered()
    }

    /// Others know which server is the primary.
    pub(super) fn is_watched(&self) -> bool {
        self.config.server.is_sentinel()
    }

    /// What is said where nothing is answered. Of a service that sentinels do not know, fred waits for
    /// more than their answer.
    pub(super) fn too_late(&self) -> String {
        let at = &self.at;
        match self.is_watched() {
            true => format!(
                "no primary answered for {at} within 500 ms; check the name of the service, hosts and ports, \
                 and that all run and can be reached from here"
            ),
            false => format!(
                "{at} did not answer within 500 ms; check host and port, \
                 and that Redis runs and can be reached from here"
            ),
        }
    }

    /// To make a connection and ask on it; who does not answer is left for the next of the hosts.
    pub(super) fn to_connect(&self) -> Duration {
        let others = self.config.server.hosts().len().saturating_sub(1);
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        MOST_TO_CONNECT.min((2 * CONNECT).saturating_add(CONNECT.saturating_mul(others)))
    }

    /// No policy for reconnecting: a connection that broke is thrown away with all that waits in
    /// it, and its keeper makes another one.
    pub(super) fn client(&self) -> fred::clients::Client {
        let performance = PerformanceConfig {
            default_command_timeout: COMMAND,
            ..PerformanceConfig::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: CONNECT,
            internal_command_timeout: CONNECT,
            max_command_attempts: 1,
            // A command that was sent to the wrong node of a cluster has failed, and with it fred learns
            // the right one. To follow an ASK, it would read the reply to another command as that to its
            // ASKING, and all later ones would be shifted.
            max_redirections: 0,
            max_command_buffer_len: QUEUE,
            reconnect_on_auth_error: true,
            // READONLY, LOADING and the like refuse single commands; others may still work.
            reconnect_errors: Vec::new(),
            tcp: TcpConfig {
                nodelay: Some(true),
                #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
                user_timeout: Some(USER_TIMEOUT),
                ..TcpConfig::default()
            },
            // It never fires while there is traffic.
            unresponsive: UnresponsiveConfig::default(),
            ..ConnectionConfig::default()
        };
        let config = Config {
            password: lock(&self.password).clone(),
            ..self.config.clone()
        };
        fred::clients::Client::new(config, Some(performance), Some(connection), None)
    }
}

/// Puts in what was given beside the URL.
fn add_credentials(
    config: &mut Config,
    user: Option<String>,
    password: Option<String>,
) -> Result<(), BuildError> {
    let twice = |what| {
        BuildError::redis_url(format!(
            "there is a {what} in the Redis URL and another beside it; give one of them"
        ))
    };
    if user.as_ref().is_some_and(String::is_empty) {
        return Err(BuildError::redis_url(
            "the user of Redis is empty; leave it out to be the default user",
        ));
    }
    if password.as_ref().is_some_and(String::is_empty) {
        return Err(BuildError::redis_url(
            "the password of Redis is empty; leave it out where none is needed",
        ));
    }
    if user.is_some() && config.username.is_some() {
        return Err(twice("user"));
    }
    // Of a user without a password the URL makes an empty one.
    let has_password = config.password.as_ref().is_some_and(|it| !it.is_empty());
    if password.is_some() && has_password {
        return Err(twice("password"));
    }
    if user.is_some() {
        config.username = user;
        config.password.get_or_insert_with(String::new);
    }
    if password.is_some() {
        config.password = password;
    }
    Ok(())
}

fn check_namespace(namespace: &str) -> Result<(), BuildError> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
    match !namespace.is_empty()
        && namespace.len() <= MAX_NAMESPACE
        && namespace.bytes().all(is_good)
    {
        true => Ok(()),
        false => Err(BuildError::redis_namespace(namespace, MAX_NAMESPACE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_of_letters_digits_and_a_few_signs() {
        for good in ["shop", "a", "shop:eu-1.web_2", "A".repeat(64).as_str()] {
            assert_eq!(check_namespace(good), Ok(()), "{good}");
        }
        let long = "n".repeat(65);
        for bad in [
            "", "{shop}", "sh}op", "a\nb", "a b", "a*", "a?", "[a]", "é", "a/b", &long,
        ] {
            let error = check_namespace(bad).unwrap_err().to_string();
            let says = "use 1 to 64 letters, digits and the characters . _ - :";
            assert!(
                error.contains(says) && !error.contains('\n'),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn a_pool_has_1_to_64_connections() {
        for (pool_size, is_good) in [(0, false), (1, true), (64, true), (65, false)] {
            let settings = Given {
                url: "redis://host".to_owned(),
                namespace: "shop".to_owned(),
                pool_size,
                ..Given::default()
            };
            assert_eq!(Target::new(settings).is_ok(), is_good, "{pool_size}");
        }
    }

    #[test]
    fn settings_do_not_show_the_password() {
        let settings = Given {
            url: "redis://:secret@host".to_owned(),
            namespace: "shop".to_owned(),
            pool_size: 2,
            password: Some("secret".to_owned()),
            ..Given::default()
        };
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn user_and_password_come_from_the_url_or_from_beside_it() {
        type Row<'a> = (
            &'a str,
            Option<&'a str>,
            Option<&'a str>,
            Result<(Option<&'a str>, Option<&'a str>), &'a str>,
        );
        let rows: &[Row<'_>] = &[
            ("redis://h", None, None, Ok((None, None))),
            // Nothing in it needs to be encoded.
            (
                "redis://h",
                Some("me"),
                Some("a/b@c%2F"),
                Ok((Some("me"), Some("a/b@c%2F"))),
            ),
            ("redis://h", None, Some("x"), Ok((None, Some("x")))),
            ("redis://h", Some("me"), None, Ok((Some("me"), Some("")))),
            ("redis://me@h", None, Some("x"), Ok((Some("me"), Some("x")))),
            (
                "redis://:x@h",
                Some("me"),
                None,
                Ok((Some("me"), Some("x"))),
            ),
            (
                "redis://:secret@h",
                None,
                Some("secret"),
                Err("a password in the Redis URL"),
            ),
            (
                "redis://you@h",
                Some("me"),
                None,
                Err("a user in the Redis URL"),
            ),
            (
                "redis://h",
                Some(""),
                None,
                Err("the user of Redis is empty"),
            ),
            (
                "redis://h",
                None,
                Some(""),
                Err("the password of Redis is empty"),
            ),
            (
                "redis-cluster://a:secret@h,i",
                None,
                Some("secret"),
                Err("a password in the Redis URL"),
            ),
        ];
        for (url, user, password, expected) in rows {
            let target = Target::new(Given {
                url: (*url).to_owned(),
                namespace: "shop".to_owned(),
                pool_size: 2,
                user: user.map(str::to_owned),
                password: password.map(str::to_owned),
            });
            match (target, expected) {
                (Ok(target), Ok((user, password))) => {
                    assert_eq!(target.config.username.as_deref(), *user, "{url}");
                    assert_eq!(target.config.password.as_deref(), *password, "{url}");
                }
                (Err(error), Err(says)) => {
                    let error = error.to_string();
                    assert!(error.contains(says), "{url}: {error}");
                    assert!(!error.contains("secret"), "{url}: {error}");
                }
                (target, expected) => panic!("{url}: {:?}, {expected:?}", target.map(|it| it.at)),
            }
        }
    }
}
