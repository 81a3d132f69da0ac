//! Headers that a credential helper gives, in Bazel's protocol.
//!
//! The helper is run with `get`, told the URI on its standard input, and answers with headers and their expiry. What
//! it prints is secret and appears nowhere, but for its standard error, where it fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use minibuild_core::{Level, RemoteEvent};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::headers::Headers;
use crate::helper_run;
use crate::outage::Tell;

/// Credentials this close to their end are no longer used.
const MARGIN: Duration = Duration::from_secs(10);
/// Without an expiry, how long an answer is used.
const DEFAULT_LIFE: Duration = Duration::from_secs(30 * 60);
/// How long a helper that failed is not asked again: hundreds of calls may want its answer, and each would wait for it.
const PAUSE: Duration = Duration::from_secs(30);

/// A credential helper and its last answer.
pub(crate) struct Credentials(Arc<Helper>);

struct Helper {
    program: String,
    uri: String,
    tell: Tell,
    last: Mutex<Last>,
}

/// What came of asking last.
#[derive(Default)]
struct Last {
    known: Option<Known>,
    failure: Option<(Instant, String)>,
}

#[derive(Clone)]
struct Known {
    headers: Arc<Headers>,
    expires: SystemTime,
    /// Counts answers, so that of many that find one refused only the first asks anew.
    version: u64,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    expires: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
}

impl Credentials {
    /// Credentials for calls to `uri`.
    pub(crate) fn new(program: &str, uri: String, tell: Tell) -> Self {
        Self(Arc::new(Helper { program: program.to_owned(), uri, tell, last: Mutex::default() }))
    }

    /// Headers that are good now, and the version of the answer they are from.
    ///
    /// # Errors
    /// What went wrong, without anything the helper printed on its standard output.
    pub(crate) async fn headers(&self, refused: Option<u64>) -> Result<(Arc<Headers>, u64), String> {
        if let Some(known) = self.0.last.lock().await.usable(refused) {
            return known;
        }
        // A task of its own: the call that asks first may lose its race and end, and others wait for the same answer.
        let helper = Arc::clone(&self.0);
        #[expect(
            clippy::disallowed_methods,
            reason = "it is to outlive this call, and ends within 10 s or with the runtime"
        )]
        let asked = tokio::spawn(async move { helper.headers(refused).await }).await;
        asked.unwrap_or_else(|_| Err(format!("the credential helper `{}` was not waited for", self.0.program)))
    }
}

impl Last {
    /// What need not be asked for again.
    fn usable(&self, refused: Option<u64>) -> Option<Result<(Arc<Headers>, u64), String>> {
        let is_good = |known: &&Known| known.expires > SystemTime::now() + MARGIN && Some(known.version) != refused;
        if let Some(known) = self.known.as_ref().filter(is_good) {
            return Some(Ok((Arc::clone(&known.headers), known.version)));
        }
        let failed = self.failure.as_ref().filter(|(at, _)| at.elapsed() < PAUSE);
        failed.map(|(_, why)| Err(why.clone()))
    }
}

impl Helper {
    async fn headers(&self, refused: Option<u64>) -> Result<(Arc<Headers>, u64), String> {
        let mut last = self.last.lock().await;
        if let Some(known) = last.usable(refused) {
            return known;
        }
        let version = last.known.as_ref().map_or(0, |known| known.version + 1);
        match self.ask(SystemTime::now()).await {
            Ok((headers, expires)) => {
                let fresh = Known { headers: Arc::new(headers), expires, version };
                *last = Last { known: Some(fresh.clone()), failure: None };
                Ok((fresh.headers, version))
            }
            Err(why) => {
                last.failure = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn ask(&self, now: SystemTime) -> Result<(Headers, SystemTime), String> {
        let fail = |why: &str| format!("the credential helper `{}` {why}", self.program);
        let request = serde_json::json!({ "uri": self.uri }).to_string();
        let say = |text| (self.tell)(RemoteEvent::Message { level: Level::Info, text });
        let printed = helper_run::run(&self.program, &request, &say).await.map_err(|error| fail(&error.to_string()))?;
        if !printed.status.success() {
            let said: String = String::from_utf8_lossy(&printed.stderr).trim().chars().take(1000).collect();
            return Err(fail(&format!("failed ({}): {said}", printed.status)));
        }
        // The text of a JSON error quotes what it found: it is not shown.
        let answer: Answer =
            serde_json::from_slice(&printed.stdout).map_err(|_| fail("printed something else than headers"))?;
        let expires = match &answer.expires {
            None => now + DEFAULT_LIFE,
            Some(text) => rfc3339(text).ok_or_else(|| fail("printed an `expires` that is no time"))?,
        };
        let pairs =
            answer.headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (&**name, &**value)));
        let headers = Headers::new(pairs).map_err(|error| fail(&format!("printed a {error}")))?;
        Ok((headers, expires))
    }
}

/// A time as RFC 3339 writes it.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let zone = rest.trim_start_matches('.').trim_start_matches(|c: char| c.is_ascii_digit());
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign @ ("+" | "-"), zone) => {
            let (hours, minutes) = zone.split_once(':')?;
            let minutes = hours.parse::<u8>().map(i64::from).ok()? * 60 + minutes.parse::<u8>().map(i64::from).ok()?;
            if sign == "-" { -minutes } else { minutes }
        }
        _ => return None,
    };
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset * 60;
    let seconds = u64::try_from(seconds).ok().filter(|_| fits)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| part.parse::<u16>().map(i64::from).ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    if parts.next().is_some() { None } else { Some(numbers) }
}

/// Days since 1970 in the Gregorian calendar; the year is counted from March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read() {
        let check = |text: &str, expected: Option<u64>| {
            let seconds = rfc3339(text).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            assert_eq!(seconds.map(|seconds| seconds.as_secs()), expected, "{text}");
        };
        check("1970-01-01T00:00:00Z", Some(0));
        check("2000-02-29T12:34:56Z", Some(951_827_696));
        check("2000-03-01t00:00:00.123456z", Some(951_868_800));
        check("2026-11-23T23:59:60Z", Some(1_795_478_400));
        check("2026-11-24T01:30:00+01:30", Some(1_795_478_400));
        check("2026-11-23 22:00:00-02:00", Some(1_795_478_400));
        check("9999-12-31T23:59:59Z", Some(253_402_300_799));
        for bad in [
            "",
            "Z",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1969-12-31T23:59:59Z",
            "1970-13-01T00:00:00Z",
            "1970-01-32T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:00+1",
            "tomorrow",
            "1970-01-01T00:00:00Zx",
            "-970-01-01T00:00:00Z",
        ] {
            check(bad, None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(Z|[+-][0-9:]{0,9})|.*") {
            let _ = rfc3339(&text);
        }
    }
}
