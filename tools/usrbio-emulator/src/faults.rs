//! What goes wrong, on purpose; the default is nothing.

use std::time::Duration;

/// Which answers are spoilt. Counters count jobs or transfers of the whole daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every so many reads bring half of their bytes.
    pub short_every: u64,
    /// Every so many transfers fail with [`Faults::errno`].
    pub error_every: u64,
    /// See above; `EIO` if it is zero.
    pub errno: i32,
    /// Jobs wait so long.
    pub delay: Duration,
    /// Jobs end in another order than they began; needs [`crate::Options::workers`].
    pub reorder: bool,
    /// Results are kept back while this is set, as if the completion queue were full.
    pub hold: bool,
    /// Results are there, but nobody is woken.
    pub never_wake: bool,
    /// Nothing is taken out of rings any more.
    pub hang: bool,
    /// Completion indices are written that cannot be.
    pub garbage: bool,
}

impl Faults {
    /// Reads `short=3,error=5,errno=28,delay=10,reorder,hold,never-wake,hang,garbage`; the delay
    /// is in milliseconds.
    ///
    /// # Errors
    /// The word that was not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u64>().map_err(|_| word.to_owned());
            match name {
                "short" => faults.short_every = number()?,
                "error" => faults.error_every = number()?,
                "errno" => faults.errno = i32::try_from(number()?).map_err(|_| word.to_owned())?,
                "delay" => faults.delay = Duration::from_millis(number()?),
                "reorder" => faults.reorder = true,
                "hold" => faults.hold = true,
                "never-wake" => faults.never_wake = true,
                "hang" => faults.hang = true,
                "garbage" => faults.garbage = true,
                _ => return Err(word.to_owned()),
            }
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_misspelt_ones_are_named() {
        let faults = Faults::parse("short=3,delay=10,never-wake").unwrap();
        let expected = Faults {
            short_every: 3,
            delay: Duration::from_millis(10),
            never_wake: true,
            ..Faults::default()
        };
        assert_eq!(faults, expected);
        assert_eq!(Faults::parse("").unwrap(), Faults::default());
        assert_eq!(Faults::parse("shrt=3").unwrap_err(), "shrt=3");
        assert_eq!(Faults::parse("short=x").unwrap_err(), "short=x");
    }
}
