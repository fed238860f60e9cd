//! The attribute `cached` of `tower-response-cache`; its feature `macros` brings it.

mod expand;
mod options;

use proc_macro::TokenStream;

/// Keeps what an `async fn` returns, under a prefix and its arguments.
///
/// It is written `#[cached(cache = EXPRESSION, prefix = "user", ttl = "5m")]`, on free functions and methods,
/// and becomes the calls that one would write by hand:
/// `cache.get_or_set(("user", id), ttl, ..)`, or `try_get_or_set` where the function returns a `Result`.
///
/// - `cache`: any expression for a `Cache`; it may name arguments and `self` (`self.cache`, `&state.cache`).
/// - `prefix`: the name in front of the arguments, without `:`, `*` and `%`.
/// - `ttl`: a whole number and `ms`, `s`, `m`, `h` or `d`; at least `1ms`, at most a hundred years.
/// - `key`: what the result depends on: an expression, or several in parentheses. Default: all arguments, up
///   to six, each of which must be `Serialize`. `self` is not one of them: name a field of it here, where the
///   result depends on it.
/// - `crate`: where `tower_response_cache` is, as a path in a string, where it is renamed or re-exported
///   (`crate = "my_framework::cache"`). Default: `::tower_response_cache`.
///
/// What is written as `-> T` returns `Result<Arc<T>, ValueError>`, and what is written as `-> Result<T, E>`
/// returns `Result<Arc<T>, LoadError<E>>`, as by hand; so it cannot stand on a method of a trait's. Errors and
/// `None` are returned and not kept.
///
/// # Errors
///
/// Does not compile where the function is not `async`, returns nothing, or an option is missing or makes no sense.
#[proc_macro_attribute]
pub fn cached(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::cached(options.into(), function.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
