//! What stands in the parentheses of the attribute.

use proc_macro2::Span;
use syn::{
    Error, Expr, Ident, LitStr, Path, Result, Token,
    ext::IdentExt,
    parse::{Parse, ParseStream},
};

/// The options, checked as far as they can be without the function.
pub(crate) struct Options {
    pub(crate) cache: Expr,
    pub(crate) prefix: LitStr,
    /// In milliseconds.
    pub(crate) ttl: u64,
    pub(crate) key: Option<Expr>,
    /// Where `tower_response_cache` is, if not there.
    pub(crate) krate: Option<Path>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut cache, mut prefix, mut ttl, mut key, mut krate) = (None, None, None, None, None);
        while !input.is_empty() {
            // `crate` is a keyword.
            let name = input.call(Ident::parse_any)?;
            input.parse::<Token![=]>()?;
            let is_second = match name.to_string().as_str() {
                "cache" => cache.replace(input.parse::<Expr>()?).is_some(),
                "prefix" => prefix.replace(checked_prefix(input.parse()?)?).is_some(),
                "ttl" => ttl.replace(millis(&input.parse()?)?).is_some(),
                "key" => key.replace(input.parse::<Expr>()?).is_some(),
                "crate" => krate.replace(path(&input.parse()?)?).is_some(),
                other => {
                    let message = format!(
                        "there is no option `{other}`; there are cache, prefix, ttl, key and crate"
                    );
                    return Err(Error::new(name.span(), message));
                }
            };
            if is_second {
                let message = format!("`{name}` is said twice");
                return Err(Error::new(name.span(), message));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Self {
            cache: required(
                cache,
                "`cache` is missing: say where to keep it, such as `cache = self.cache`",
            )?,
            prefix: required(
                prefix,
                "`prefix` is missing: name the values, such as `prefix = \"user\"`",
            )?,
            ttl: required(
                ttl,
                "`ttl` is missing: say how long to keep them, such as `ttl = \"5m\"`",
            )?,
            key,
            krate,
        })
    }
}

fn required<T>(option: Option<T>, message: &str) -> Result<T> {
    option.ok_or_else(|| Error::new(Span::call_site(), message))
}

fn path(literal: &LitStr) -> Result<Path> {
    literal.parse_with(Path::parse_mod_style).map_err(|_| {
        let message = format!(
            "{:?} is no path of a crate: write one such as \"cache\" or \"crate::cache\"",
            literal.value()
        );
        Error::new(literal.span(), message)
    })
}

fn checked_prefix(prefix: LitStr) -> Result<LitStr> {
    let text = prefix.value();
    if text.is_empty() {
        return Err(Error::new(
            prefix.span(),
            "an empty prefix names nothing; give one, such as \"user\"",
        ));
    }
    if text.contains([':', '*', '%']) {
        let message = "a prefix has no : or * or % in it, which tell its arguments apart";
        return Err(Error::new(prefix.span(), message));
    }
    Ok(prefix)
}

/// A hundred years, the longest ttl of a value.
const LONGEST: u64 = 100 * 365 * 86_400_000;

fn millis(literal: &LitStr) -> Result<u64> {
    let text = literal.value();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if unit == 0 || !is_number {
        let message = format!(
            "{text:?} is no ttl: write a whole number and ms, s, m, h or d, such as \"5m\""
        );
        return Err(Error::new(literal.span(), message));
    }
    // More digits than fit are too long in any unit.
    let ttl = digits.parse().unwrap_or(u64::MAX).saturating_mul(unit);
    match ttl {
        0 => Err(Error::new(
            literal.span(),
            "a ttl of nothing stores nothing; give at least \"1ms\"",
        )),
        1..=LONGEST => Ok(ttl),
        _ => Err(Error::new(
            literal.span(),
            "a ttl of more than a hundred years",
        )),
    }
}
