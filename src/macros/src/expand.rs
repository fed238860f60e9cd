//! The function, written anew around the call that loads.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{
    Error, Expr, FnArg, GenericArgument, Ident, ItemFn, Pat, PathArguments, Result, ReturnType,
    Type, parse2, spanned::Spanned,
};

use crate::options::Options;

/// So many arguments make a key.
const MOST: usize = 6;

pub(crate) fn cached(options: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let Options {
        cache,
        prefix,
        ttl,
        key,
        krate,
    } = parse2(options)?;
    let ItemFn {
        attrs,
        vis,
        mut sig,
        block,
    } = parse2(function)?;
    if sig.asyncness.is_none() {
        return Err(Error::new(
            sig.fn_token.span,
            "only an `async fn` is cached: loading waits for others",
        ));
    }
    let (value, error) = returned(&sig.output, sig.ident.span())?;
    let has_self = sig.receiver().is_some();
    for option in [Some(&cache), key.as_ref()].into_iter().flatten() {
        if !has_self {
            if let Some(span) = find_self(option.to_token_stream()) {
                return Err(Error::new(
                    span,
                    "there is no `self` in a function without a receiver",
                ));
            }
        }
    }
    let parts = match key {
        Some(key) => said(key, &arguments(&sig.inputs))?,
        None => all(&sig.inputs)?,
    };
    if parts.len() > MOST {
        let message = format!(
            "{} arguments are more than {MOST} in a key; say with `key` which ones it is made of",
            parts.len()
        );
        return Err(Error::new(sig.ident.span(), message));
    }
    let parts = parts
        .iter()
        .map(|part| quote_spanned!(part.span()=> &(#part)));

    let krate = match krate {
        Some(path) => path.to_token_stream(),
        None => quote!(::tower_response_cache),
    };
    let (call, returns) = match &error {
        None => (
            quote!(get_or_set::<#value, _, _>),
            quote!(#krate::ValueError),
        ),
        Some(error) => (
            quote!(try_get_or_set::<#value, #error, _, _>),
            quote!(#krate::LoadError<#error>),
        ),
    };
    sig.output = syn::parse_quote!(-> ::core::result::Result<::std::sync::Arc<#value>, #returns>);
    let (the_cache, the_key) = (local("cache"), local("key"));
    // The handle is cloned and the key is made first, so that the load may take the arguments away.
    let borrowed = quote_spanned!(cache.span()=> &(#cache));
    Ok(quote! {
        #(#attrs)*
        #vis #sig {
            let #the_cache: &#krate::Cache = #borrowed;
            let #the_cache: #krate::Cache = ::core::clone::Clone::clone(#the_cache);
            let #the_key = #krate::ValueKey::new((#prefix, #(#parts,)*))?;
            #the_cache
                .#call(#the_key, ::core::time::Duration::from_millis(#ttl), move || async move #block)
                .await
        }
    })
}

/// A name that nothing in the function's body can mean.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// The type of the value, and that of the error where there may be one.
fn returned(output: &ReturnType, name: Span) -> Result<(Type, Option<Type>)> {
    let ReturnType::Type(_, written) = output else {
        return Err(Error::new(
            name,
            "a function that returns nothing has nothing to keep",
        ));
    };
    if let Type::ImplTrait(written) = &**written {
        return Err(Error::new(
            written.span(),
            "name the type: what is kept has one",
        ));
    }
    let last = match &**written {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let Some(last) = last.filter(|last| last.ident == "Result") else {
        return Ok(((**written).clone(), None));
    };
    if let PathArguments::AngleBracketed(given) = &last.arguments {
        let given: Vec<_> = given.args.iter().collect();
        if let [GenericArgument::Type(value), GenericArgument::Type(error)] = given[..] {
            return Ok((value.clone(), Some(error.clone())));
        }
    }
    Err(Error::new(
        written.span(),
        "write `Result<T, E>` with both types: an alias hides the error, which is not kept",
    ))
}

type Inputs = syn::punctuated::Punctuated<FnArg, syn::Token![,]>;

fn name_of(argument: &FnArg) -> Option<&Ident> {
    match argument {
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(pattern) => Some(&pattern.ident),
            _ => None,
        },
        FnArg::Receiver(_) => None,
    }
}

/// The names of the arguments that are no patterns.
fn arguments(inputs: &Inputs) -> Vec<&Ident> {
    inputs.iter().filter_map(name_of).collect()
}

/// All arguments but `self`.
fn all(inputs: &Inputs) -> Result<Vec<Expr>> {
    let mut parts = Vec::new();
    for argument in inputs {
        match (argument, name_of(argument)) {
            (FnArg::Receiver(_), _) => {}
            (_, Some(name)) => parts.push(syn::parse_quote!(#name)),
            (other, None) => {
                return Err(Error::new(
                    other.span(),
                    "a pattern is no part of a key; say with `key` what it is made of",
                ));
            }
        }
    }
    Ok(parts)
}

/// What `key` says: names must be those of arguments; anything else is an expression.
fn said(key: Expr, names: &[&Ident]) -> Result<Vec<Expr>> {
    let parts: Vec<Expr> = match key {
        Expr::Tuple(tuple) => tuple.elems.into_iter().collect(),
        Expr::Paren(inner) => vec![*inner.expr],
        one => vec![one],
    };
    for part in &parts {
        let Expr::Path(path) = part else { continue };
        let Some(name) = path.path.get_ident() else {
            continue;
        };
        if name == "self" {
            return Err(Error::new(
                name.span(),
                "`self` is never in the key; name the field that the result depends on",
            ));
        }
        // A constant is as good as an argument; it is written in capitals.
        let is_lower = name
            .to_string()
            .starts_with(|c: char| c.is_lowercase() || c == '_');
        if is_lower && !names.contains(&name) {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let message = format!(
                "there is no argument `{name}`; there are: {}",
                names.join(", ")
            );
            return Err(Error::new(name.span(), message));
        }
    }
    Ok(parts)
}

fn find_self(tokens: TokenStream) -> Option<Span> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(name) if name == "self" => Some(name.span()),
        TokenTree::Group(group) => find_self(group.stream()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(options: &str, function: &str) -> String {
        let (options, function) = (options.parse().unwrap(), function.parse().unwrap());
        cached(options, function).unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_does_not_compile_and_says_why() {
        const FUNCTION: &str = "async fn user(id: u64) -> u8 { 1 }";
        const OPTIONS: &str = r#"cache = CACHE, prefix = "user", ttl = "5m""#;
        let ttl = |ttl: &str| {
            message(
                &format!("cache = C, prefix = \"user\", ttl = {ttl:?}"),
                FUNCTION,
            )
        };
        let key = |key: &str| message(&format!("{OPTIONS}, key = {key}"), FUNCTION);
        let of = |function: &str| message(OPTIONS, function);
        #[rustfmt::skip]
        let rows = [
            (message(r#"prefix = "user", ttl = "5m""#, FUNCTION), "`cache` is missing: say where to keep it, such as `cache = self.cache`"),
            (message(r#"cache = C, ttl = "5m""#, FUNCTION), "`prefix` is missing: name the values, such as `prefix = \"user\"`"),
            (message(r#"cache = C, prefix = "user""#, FUNCTION), "`ttl` is missing: say how long to keep them, such as `ttl = \"5m\"`"),
            (message("size = 5", FUNCTION), "there is no option `size`; there are cache, prefix, ttl, key and crate"),
            (message("cache = A, cache = B", FUNCTION), "`cache` is said twice"),
            (message(r#"prefix = "a:b""#, FUNCTION), "a prefix has no : or * or % in it, which tell its arguments apart"),
            (message(r#"prefix = """#, FUNCTION), "an empty prefix names nothing; give one, such as \"user\""),
            (message(r#"cache = self.cache, prefix = "user", ttl = "5m""#, FUNCTION), "there is no `self` in a function without a receiver"),
            (message("crate = \"a-b\"", FUNCTION), "\"a-b\" is no path of a crate: write one such as \"cache\" or \"crate::cache\""),
            (ttl("5 minutes"), "\"5 minutes\" is no ttl: write a whole number and ms, s, m, h or d, such as \"5m\""),
            (ttl("5"), "\"5\" is no ttl: write a whole number and ms, s, m, h or d, such as \"5m\""),
            (ttl("0s"), "a ttl of nothing stores nothing; give at least \"1ms\""),
            (ttl("36501d"), "a ttl of more than a hundred years"),
            (ttl("99999999999999999999d"), "a ttl of more than a hundred years"),
            (key("name"), "there is no argument `name`; there are: `id`"),
            (key("(id, name)"), "there is no argument `name`; there are: `id`"),
            (key("self.id"), "there is no `self` in a function without a receiver"),
            (message(&format!("{OPTIONS}, key = self"), "async fn user(&self) -> u8 { 1 }"), "`self` is never in the key; name the field that the result depends on"),
            (of("fn user(id: u64) -> u8 { 1 }"), "only an `async fn` is cached: loading waits for others"),
            (of("async fn user(id: u64) {}"), "a function that returns nothing has nothing to keep"),
            (of("async fn user(id: u64) -> impl Copy { 1 }"), "name the type: what is kept has one"),
            (of("async fn user(id: u64) -> io::Result<u8> { Ok(1) }"), "write `Result<T, E>` with both types: an alias hides the error, which is not kept"),
            (of("async fn user(Id(id): Id) -> u8 { 1 }"), "a pattern is no part of a key; say with `key` what it is made of"),
            (of("async fn user(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8) -> u8 { 1 }"), "7 arguments are more than 6 in a key; say with `key` which ones it is made of"),
        ];
        for (message, sentence) in rows {
            assert_eq!(message, sentence);
        }
    }
}
