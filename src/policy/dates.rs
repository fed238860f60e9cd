//! Dates in their three forms ([RFC 9110, section 5.6.7](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7)).

use std::time::{Duration, SystemTime};

use super::syntax::trim;

/// Fifty years of the mean length that the Gregorian calendar gives them.
const FIFTY_YEARS: Duration = Duration::from_secs(50 * 31_556_952);

/// The longest that a date can be.
const LONGEST: usize = "Wednesday, 06-Nov-94 08:49:37 GMT".len();

/// A date; one with a year of two digits is at most fifty years ahead of `now`.
///
/// In any case, though they are defined in one ([RFC 9111, section
/// 4.2](https://www.rfc-editor.org/rfc/rfc9111#section-4.2)).
pub(crate) fn http_date(bytes: &[u8], now: SystemTime) -> Option<SystemTime> {
    let text = std::str::from_utf8(trim(bytes)).ok()?;
    match in_its_case(text, now) {
        None if text.len() <= LONGEST => in_its_case(&in_usual_case(text), now),
        date => date,
    }
}

/// Names of days and months begin with a capital letter, and the zone is of capital letters.
fn in_usual_case(text: &str) -> String {
    let mut is_inside = false;
    let date: String = text
        .chars()
        .map(|letter| {
            let was_inside = std::mem::replace(&mut is_inside, letter.is_ascii_alphabetic());
            match was_inside {
                true => letter.to_ascii_lowercase(),
                false => letter.to_ascii_uppercase(),
            }
        })
        .collect();
    match date.strip_suffix("Gmt") {
        Some(rest) => format!("{rest}GMT"),
        None => date,
    }
}

fn in_its_case(text: &str, now: SystemTime) -> Option<SystemTime> {
    match with_short_year(text) {
        Some(date) => date.in_century(now),
        None => httpdate::parse_http_date(text).ok(),
    }
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`, taken apart.
struct ShortYear<'a> {
    weekday: &'a str,
    day: &'a str,
    month: &'a str,
    year: &'a str,
    time: &'a str,
}

fn with_short_year(text: &str) -> Option<ShortYear<'_>> {
    const WEEKDAYS: [&str; 7] = [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ];
    let (weekday, rest) = text.split_once(", ")?;
    let (day, rest) = rest.split_once('-')?;
    let (month, rest) = rest.split_once('-')?;
    let (year, time) = rest.split_once(' ')?;
    let weekday = WEEKDAYS.iter().find(|known| **known == weekday)?.get(..3)?;
    Some(ShortYear {
        weekday,
        day,
        month,
        year,
        time,
    })
}

impl ShortYear<'_> {
    /// RFC 9110, 5.6.7: what appears to be more than fifty years ahead is of the century before. The
    /// day of the week has to be right as well, so a date is never moved to a day that it does not name.
    fn in_century(&self, now: SystemTime) -> Option<SystemTime> {
        let Self {
            weekday,
            day,
            month,
            year,
            time,
        } = self;
        [21, 20, 19].into_iter().find_map(|century| {
            let whole = format!("{weekday}, {day} {month} {century}{year} {time}");
            let date = httpdate::parse_http_date(&whole).ok()?;
            let is_far_ahead = date
                .duration_since(now)
                .is_ok_and(|ahead| ahead > FIFTY_YEARS);
            (!is_far_ahead).then_some(date)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::policy::testing::Random;

    fn at(text: &str) -> SystemTime {
        httpdate::parse_http_date(text).expect("a test gives dates")
    }

    #[test]
    fn dates_have_three_forms() {
        const THEN: Option<&str> = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        const NOW: &str = "Thu, 01 Jan 2026 12:00:00 GMT";
        #[rustfmt::skip]
        let rows: &[(&str, &str, &str, Option<&str>)] = &[
            ("§5.6.7 IMF-fixdate", NOW, "Sun, 06 Nov 1994 08:49:37 GMT", THEN),
            ("§5.6.7 RFC 850", NOW, "Sunday, 06-Nov-94 08:49:37 GMT", THEN),
            ("§5.6.7 asctime", NOW, "Sun Nov  6 08:49:37 1994", THEN),
            ("§5.6.3 spaces around", NOW, " \tSun, 06 Nov 1994 08:49:37 GMT ", THEN),
            ("§5.6.3 spaces around two digits", NOW, " \tTuesday, 31-Dec-75 00:00:00 GMT ", Some("Tue, 31 Dec 2075 00:00:00 GMT")),
            ("of the century that its day of the week is of", "Mon, 01 Jan 2080 00:00:00 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", THEN),
            ("§5.6.7 two digits, ahead", NOW, "Thursday, 01-Jan-26 12:00:01 GMT", Some("Thu, 01 Jan 2026 12:00:01 GMT")),
            ("§5.6.7 two digits, far ahead", NOW, "Tuesday, 31-Dec-75 00:00:00 GMT", Some("Tue, 31 Dec 2075 00:00:00 GMT")),
            ("§5.6.7 two digits, more than fifty years ahead", NOW, "Saturday, 01-Jan-77 00:00:00 GMT", Some("Sat, 01 Jan 1977 00:00:00 GMT")),
            ("§5.6.7 in another century", "Mon, 01 Jan 2080 00:00:00 GMT", "Monday, 06-Nov-94 08:49:37 GMT", None),
            ("§5.6.7 in another century, on its day", "Mon, 01 Jan 2080 00:00:00 GMT", "Saturday, 06-Nov-94 08:49:37 GMT", Some("Sat, 06 Nov 2094 08:49:37 GMT")),
            ("§5.6.7 in the century after that", "Mon, 01 Jan 2080 00:00:00 GMT", "Friday, 01-Jan-00 00:00:00 GMT", Some("Fri, 01 Jan 2100 00:00:00 GMT")),
            ("a wrong day", NOW, "Mon, 06 Nov 1994 08:49:37 GMT", None),
            ("a wrong day, RFC 850", NOW, "Monday, 06-Nov-94 08:49:37 GMT", None),
            ("a wrong day, asctime", NOW, "Mon Nov  6 08:49:37 1994", None),
            ("a short day, RFC 850", NOW, "Sun, 06-Nov-94 08:49:37 GMT", None),
            ("a year of three digits", NOW, "Sunday, 06-Nov-994 08:49:37 GMT", None),
            ("a year of four digits, RFC 850", NOW, "Sunday, 06-Nov-1994 08:49:37 GMT", None),
            ("a year of one digit", NOW, "Sunday, 06-Nov-4 08:49:37 GMT", None),
            ("a sign for a digit", NOW, "Sunday, 06-Nov-+4 08:49:37 GMT", None),
            ("another zone", NOW, "Sunday, 06-Nov-94 08:49:37 UTC", None),
            ("no such day", NOW, "Sun, 31 Nov 1994 08:49:37 GMT", None),
            ("no such hour", NOW, "Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("RFC 9111, 4.2: in another case", NOW, "sun, 06 NOV 1994 08:49:37 Gmt", THEN),
            ("RFC 9111, 4.2: in another case, RFC 850", NOW, "SUNDAY, 06-nov-94 08:49:37 gmt", THEN),
            ("RFC 9111, 4.2: in another case, asctime", NOW, "SUN nov  6 08:49:37 1994", THEN),
            ("two dates", NOW, "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("a number", NOW, "784111777", None),
            ("0", NOW, "0", None),
            ("nothing", NOW, "", None),
            ("before 1970", NOW, "Sun, 06 Nov 1960 08:49:37 GMT", None),
            ("the last that there is", NOW, "Fri, 31 Dec 9999 23:59:59 GMT", Some("Fri, 31 Dec 9999 23:59:59 GMT")),
        ];
        for (sentence, now, text, expected) in rows {
            let date = http_date(text.as_bytes(), at(now));
            assert_eq!(date, expected.map(at), "{sentence}");
        }
    }

    /// IMF-fixdate in the other two forms.
    fn other_forms(date: &str) -> [String; 2] {
        const WEEKDAYS: [&str; 7] = [
            "Sunday",
            "Monday",
            "Tuesday",
            "Wednesday",
            "Thursday",
            "Friday",
            "Saturday",
        ];
        let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
        let weekday = WEEKDAYS.iter().find(|name| name.starts_with(&date[..3]));
        let weekday = weekday.expect("one of seven");
        let spaced = day.trim_start_matches('0');
        [
            format!("{weekday}, {day}-{month}-{} {time} GMT", &year[2..]),
            format!("{} {month} {spaced:>2} {time} {year}", &date[..3]),
        ]
    }

    #[test]
    fn the_three_forms_say_the_same_within_fifty_years() {
        let mut random = Random::new(34);
        let now = at("Thu, 01 Jan 2026 12:00:00 GMT");
        let begin = at("Sat, 03 Jan 1976 00:00:00 GMT");
        for _ in 0..20_000 {
            // A hundred years around now, but for two days.
            let seconds = random.below(1 << 30) as u64 * 3 % (100 * 31_556_952 - 4 * 86_400);
            let date = begin + Duration::from_secs(seconds);
            let text = httpdate::fmt_http_date(date);
            let [rfc850, asctime] = other_forms(&text);
            for form in [&text, &rfc850, &asctime] {
                assert_eq!(http_date(form.as_bytes(), now), Some(date), "{form}");
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_a_date_says_what_it_says() {
        let mut random = Random::new(35);
        let mut dates = 0;
        for _ in 0..50_000 {
            let now = UNIX_EPOCH + Duration::from_secs(random.below(1 << 31) as u64 * 5);
            let date = UNIX_EPOCH + Duration::from_secs(random.below(1 << 31) as u64);
            let text = httpdate::fmt_http_date(date);
            let [rfc850, asctime] = other_forms(&text);
            let mut bytes = random
                .pick(&[&*text, &*rfc850, &*asctime])
                .as_bytes()
                .to_vec();
            for _ in 0..random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] = b"0123456789 :,-JFMASONDxGT\xE9"[random.below(26)];
            }
            let Some(found) = http_date(&bytes, now) else {
                continue;
            };
            dates += 1;
            let text = httpdate::fmt_http_date(found);
            let [rfc850, asctime] = other_forms(&text);
            let bytes = String::from_utf8_lossy(trim(&bytes)).into_owned();
            let zeros = asctime.replacen("  ", " 0", 1);
            let forms = [text, rfc850, asctime, zeros];
            assert!(
                forms.iter().any(|form| form.eq_ignore_ascii_case(&bytes)),
                "{bytes} was read as {found:?}"
            );
        }
        assert!(dates > 5_000, "{dates}");
    }
}
