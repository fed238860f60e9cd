//! What stands in generated fields, read as the RFC has it, for the rows of the table.

use crate::heads::Fields;

pub fn lines<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = fields.iter().filter(move |(known, _)| *known == name);
    lines.map(|(_, value)| value.as_str())
}

pub fn has(fields: &Fields, name: &str) -> bool {
    lines(fields, name).next().is_some()
}

/// The members of `Cache-Control`, as they are written.
pub fn members(fields: &Fields) -> Vec<(&str, Option<&str>)> {
    let mut members = Vec::new();
    for line in lines(fields, "cache-control") {
        let (mut begin, mut is_quoted) = (0, false);
        let commas = line.char_indices().chain([(line.len(), ',')]);
        for (at, letter) in commas {
            is_quoted ^= letter == '"';
            if at == line.len() || (letter == ',' && !is_quoted) {
                members.push(line[begin..at].trim());
                begin = at + 1;
            }
        }
    }
    let members = members
        .into_iter()
        .map(|member| match member.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (member, None),
        });
    members.collect()
}

pub fn says(fields: &Fields, name: &str) -> bool {
    let members = members(fields);
    members
        .iter()
        .any(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// The arguments of a directive, without quotes.
pub fn arguments<'a>(fields: &'a Fields, name: &str) -> Vec<Option<&'a str>> {
    let members = members(fields).into_iter();
    let of_name = members.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    let unquoted = |argument: Option<&'a str>| argument.map(|text| text.trim_matches('"'));
    of_name.map(|(_, argument)| unquoted(argument)).collect()
}

pub fn has_capitals(fields: &Fields) -> bool {
    let members = members(fields);
    members
        .iter()
        .any(|(name, _)| name.chars().any(char::is_uppercase))
}

pub fn has_comma_in_quotes(fields: &Fields) -> bool {
    let members = members(fields);
    let has_comma = |argument: &Option<&str>| argument.is_some_and(|text| text.contains(','));
    members.iter().any(|(_, argument)| has_comma(argument))
}

pub fn is_no_number(argument: &Option<&str>) -> bool {
    !argument.is_some_and(|text| text.parse::<u64>().is_ok())
}

pub fn has_freshness(fields: &Fields) -> bool {
    says(fields, "max-age") || says(fields, "s-maxage") || has(fields, "expires")
}

const DATED: [&str; 3] = ["expires", "date", "last-modified"];

/// Whether one of the dates is in a form that is not the usual one.
pub fn has_date(fields: &Fields, is_so: fn(&str) -> bool) -> bool {
    DATED.iter().any(|name| lines(fields, name).any(is_so))
}
