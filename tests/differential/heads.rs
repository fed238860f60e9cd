//! Generated heads: a request, its response, and a second request some time later.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields, line by line.
pub type Fields = Vec<(&'static str, String)>;

/// SplitMix64: the same sequence on every machine.
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What both are asked about.
#[derive(Debug)]
pub struct Exchange {
    pub first: Fields,
    pub status: u16,
    pub response: Fields,
    /// So many seconds later
    pub later: u64,
    /// this is asked.
    pub second: Fields,
}

const STATUSES: &[u16] = &[
    200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 201, 202, 203,
    204, 206, 299, 300, 301, 302, 303, 307, 308, 400, 403, 404, 405, 410, 414, 429, 500, 501, 503,
];

const SAID: &[&str] = &[
    "max-age=60",
    "max-age=60",
    "max-age=60",
    "max-age=60",
    "max-age=600",
    "max-age=0",
    "Max-Age=60",
    "max-age=\"60\"",
    "max-age=x",
    "max-age=-1",
    "max-age=1.5",
    "max-age",
    "max-age=99999999999999999999",
    "s-maxage=60",
    "s-maxage=60",
    "S-MaxAge=90",
    "s-maxage=0",
    "s-maxage=x",
    "public",
    "public",
    "Public",
    "private",
    "Private",
    "private=\"set-cookie\"",
    "no-store",
    "NO-STORE",
    "no-cache",
    "No-Cache",
    "no-cache=\"set-cookie\"",
    "must-revalidate",
    "Must-Revalidate",
    "proxy-revalidate",
    "must-understand",
    "immutable",
    "no-transform",
    "stale-while-revalidate=60",
    "x=\"a, max-age=60, b\"",
    "x=\"a, public, b\"",
    "x=\"max-age=60\"",
    "private; x",
    "max-age = 60",
    "x=\"open",
];

/// What most responses say.
const USUAL: &[&str] = &[
    "max-age=60",
    "max-age=60",
    "public, max-age=60",
    "s-maxage=60",
    "max-age=600, s-maxage=60",
    "max-age=60, must-revalidate",
    "max-age=60, proxy-revalidate",
    "max-age=60, stale-while-revalidate=60",
    "max-age=60, private",
    "max-age=60, no-store, must-understand",
    "no-cache",
    "max-age=60, no-cache",
];

const DEMANDED: &[&str] = &[
    "no-cache",
    "No-Cache",
    "no-store",
    "max-age=10",
    "Max-Age=10",
    "max-age=600",
    "max-age=x",
    "min-fresh=20",
    "min-fresh=x",
    "max-stale",
    "max-stale",
    "max-stale",
    "max-stale=30",
    "max-stale=30",
    "max-stale=30",
    "max-stale=600",
    "Max-Stale",
    "max-stale=x",
    "only-if-cached",
    "no-transform",
    "x=\"a, no-cache, b\"",
];

/// When the first response comes.
pub fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800)
}

/// A date so many seconds from then, in one of its three forms (RFC 9110, 5.6.7), or in none.
fn date(dice: &mut Dice, seconds: i64) -> String {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds < 0 {
        true => noon() - by,
        false => noon() + by,
    };
    let text = httpdate::fmt_http_date(time);
    let parts: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, clock, _] = parts[..] else {
        unreachable!("a date has six parts");
    };
    let short = &text[..3];
    let day_of_month: u8 = day.parse().expect("a day");
    let long = match short {
        "Mon" => "Monday",
        "Tue" => "Tuesday",
        "Wed" => "Wednesday",
        "Thu" => "Thursday",
        "Fri" => "Friday",
        "Sat" => "Saturday",
        _ => "Sunday",
    };
    match dice.below(20) {
        0 => format!("{long}, {day}-{month}-{} {clock} GMT", &year[2..]),
        1 => format!("{short} {month} {day_of_month:>2} {clock} {year}"),
        2 => text.replace("GMT", "+0000"),
        3 => dice.of(&["0", "-1", "", "tomorrow"]).to_owned(),
        _ => text,
    }
}

fn said(dice: &mut Dice, all: &[&str], most: usize) -> Vec<String> {
    let mut chosen: Vec<String> = (0..dice.below(most + 1))
        .map(|_| dice.of(all).to_owned())
        .collect();
    if dice.one_in(4) {
        return chosen;
    }
    if chosen.len() > 1 {
        chosen = vec![chosen.join(dice.of(&[", ", ",", ", ,"]))];
    }
    chosen
}

fn selecting(dice: &mut Dice) -> Fields {
    let mut fields = Fields::new();
    let languages: &[&str] = &["de", "de", "de", "de, en", "de,en", "en"];
    let themes: &[&str] = &["dark", "dark", "dark", "light", ""];
    for (name, values) in [("accept-language", languages), ("x-theme", themes)] {
        if !dice.one_in(3) {
            fields.push((name, dice.of(values).to_owned()));
        }
    }
    fields
}

impl Exchange {
    pub fn random(dice: &mut Dice) -> Self {
        let selected = selecting(dice);
        let (mut first, mut second) = (selected.clone(), selected);
        if dice.one_in(8) {
            second = selecting(dice);
        }
        if dice.one_in(4) {
            for (_, value) in &mut second {
                *value = value.replace(' ', "");
            }
        }
        for fields in [&mut first, &mut second] {
            if dice.one_in(8) {
                fields.push(("authorization", "Basic YTph".to_owned()));
            }
            if dice.one_in(8) {
                fields.push(("cookie", dice.of(&["a=b", "c=d"]).to_owned()));
            }
        }
        if dice.one_in(12) {
            for line in said(dice, DEMANDED, 2) {
                // Nothing would be obtained.
                if !line.contains("only-if-cached") {
                    first.push(("cache-control", line));
                }
            }
        }
        if dice.one_in(4) {
            for line in said(dice, DEMANDED, 2) {
                second.push(("cache-control", line));
            }
        }
        if dice.one_in(12) {
            let pragma = dice.of(&["no-cache", "No-Cache", "x-no-cache"]);
            second.push(("pragma", pragma.to_owned()));
        }
        Self {
            first,
            status: dice.of(STATUSES),
            response: response(dice),
            later: dice.of(&[
                0, 5, 5, 20, 20, 30, 30, 59, 60, 61, 89, 90, 90, 91, 119, 120, 500, 2_000, 100_000,
            ]),
            second,
        }
    }
}

fn response(dice: &mut Dice) -> Fields {
    let mut fields = Fields::new();
    let lines = match dice.one_in(2) {
        true => said(dice, SAID, 3),
        false => vec![dice.of(USUAL).to_owned()],
    };
    for line in lines {
        fields.push(("cache-control", line));
    }
    if dice.one_in(4) {
        let seconds = dice.of(&[60, 600, 0, -60]);
        fields.push(("expires", date(dice, seconds)));
        if dice.one_in(8) {
            fields.push(("expires", date(dice, 600)));
        }
    }
    if dice.one_in(3) {
        let seconds = dice.of(&[0, 0, 0, -10, 20, -100]);
        fields.push(("date", date(dice, seconds)));
    }
    if dice.one_in(5) {
        let age = dice.of(&[
            "5",
            "30",
            "70",
            "5, 40",
            "x",
            "-5",
            "3.5",
            "",
            "99999999999",
        ]);
        fields.push(("age", age.to_owned()));
        if dice.one_in(8) {
            fields.push(("age", "40".to_owned()));
        }
    }
    if dice.one_in(3) {
        let seconds = dice.of(&[-600, -6000, -10_000_000, 60]);
        fields.push(("last-modified", date(dice, seconds)));
    }
    if dice.one_in(3) {
        let etag = dice.of(&["\"a\"", "W/\"a\"", "a"]);
        fields.push(("etag", etag.to_owned()));
    }
    if dice.one_in(4) {
        const VARY: &[&str] = &[
            "accept-language",
            "Accept-Language",
            "x-theme",
            "X-Theme, Accept-Language",
            "cookie",
            "authorization",
            "*",
            "x-theme, *",
            "a b",
            "",
        ];
        fields.push(("vary", dice.of(VARY).to_owned()));
        if dice.one_in(8) {
            fields.push(("vary", dice.of(VARY).to_owned()));
        }
    }
    if dice.one_in(16) {
        fields.push(("pragma", "no-cache".to_owned()));
    }
    if dice.one_in(12) {
        fields.push(("set-cookie", "a=b".to_owned()));
    }
    fields
}

/// As the two take them.
pub fn map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).expect("a field value");
        map.append(HeaderName::from_static(name), value);
    }
    map
}
