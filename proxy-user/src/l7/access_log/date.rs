// SPDX-License-Identifier: MIT OR Apache-2.0
//! Points in time as logs write them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A point in time, taken apart.
pub struct Date {
    /// The whole second since 1970.
    pub epoch: u64,
    /// Milliseconds in that second.
    pub millis: u32,
    year: u64,
    month: usize,
    day: u64,
}

impl Date {
    /// Takes it apart.
    pub fn new(at: SystemTime) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = since.as_secs();
        // Years that begin in March have their leap day at the end; 400 of them are 146 097 days.
        let days = epoch / 86_400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 2
        } else {
            from_march - 10
        };
        Date {
            epoch,
            millis: since.subsec_millis(),
            year: era * 400 + year_of_era + u64::from(month < 2),
            month: month as usize,
            day: of_year - (153 * from_march + 2) / 5 + 1,
        }
    }

    fn clock(&self) -> (u64, u64, u64) {
        let of_day = self.epoch % 86_400;
        (of_day / 3600, of_day / 60 % 60, of_day % 60)
    }

    /// `06/Feb/2009:12:14:14`.
    pub fn clf(&self) -> String {
        let (hour, minute, second) = self.clock();
        let month = MONTHS[self.month];
        format!(
            "{:02}/{month}/{}:{hour:02}:{minute:02}:{second:02}",
            self.day, self.year
        )
    }

    /// `2009-02-06T12:14:14.655Z`.
    pub fn iso(&self) -> String {
        let (hour, minute, second) = self.clock();
        let (year, month, day, millis) = (self.year, self.month + 1, self.day, self.millis);
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, want) in [
            (0, "01/Jan/1970:00:00:00"),
            (951_782_399, "28/Feb/2000:23:59:59"),
            (951_782_400, "29/Feb/2000:00:00:00"),
            (951_868_800, "01/Mar/2000:00:00:00"),
            (1_233_922_454, "06/Feb/2009:12:14:14"),
            (4_107_542_400, "01/Mar/2100:00:00:00"),
            (1_798_761_599, "31/Dec/2026:23:59:59"),
        ] {
            let date = Date::new(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(date.clf(), want);
        }
        let date = Date::new(UNIX_EPOCH + Duration::from_millis(1_233_922_454_655));
        assert_eq!(date.iso(), "2009-02-06T12:14:14.655Z");
    }
}
