//! Which cores there are, which a user names, and pinning a thread to one.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::sys;

/// Cores that the kernel's own set can name.
const CORE_LIMIT: usize = libc::CPU_SETSIZE as usize;

/// Why a list of cores or a pinning failed.
#[derive(Debug)]
pub enum CoreError {
    /// A part of the list is neither a core nor a range of cores.
    Syntax {
        /// The part.
        part: String,
    },
    /// A core is named twice.
    Twice {
        /// The core.
        core: usize,
    },
    /// This process may not run on the core, or the machine does not have it.
    NotThere {
        /// The core asked for.
        core: usize,
        /// The cores that there are.
        there: Vec<usize>,
    },
    /// More cores were needed than the list names.
    TooFew {
        /// How many were needed.
        needed: usize,
        /// How many there are.
        given: usize,
    },
    /// The kernel refused.
    Os {
        /// What it said.
        source: io::Error,
    },
}

impl fmt::Display for CoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { part } => write!(
                f,
                "'{part}' is neither a core nor a range of cores: give a list such as 0,2-3"
            ),
            Self::Twice { core } => write!(f, "core {core} is named twice: name each core once"),
            Self::NotThere { core, there } => write!(
                f,
                "core {core} is not there: this process may run on {}",
                CoreList(there.clone())
            ),
            Self::TooFew { needed, given } => {
                write!(f, "{needed} cores are needed, {given} given: name {needed}")
            }
            Self::Os { source } => write!(f, "pinning a thread to a core failed: {source}"),
        }
    }
}

impl std::error::Error for CoreError {}

/// A list of cores as a user writes it: `0`, `0,2-3`. In the order written, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

impl CoreList {
    /// The cores, in the order written.
    pub fn cores(&self) -> &[usize] {
        &self.0
    }

    /// Checks that this process may run on each core of the list.
    ///
    /// # Errors
    /// [`CoreError::NotThere`] with the first core that it may not run on.
    pub fn check(&self) -> Result<(), CoreError> {
        let there = available_cores()?;
        match self.0.iter().find(|core| !there.contains(core)) {
            Some(&core) => Err(CoreError::NotThere { core, there }),
            None => Ok(()),
        }
    }
}

impl FromStr for CoreList {
    type Err = CoreError;

    fn from_str(text: &str) -> Result<Self, CoreError> {
        let mut cores = Vec::new();
        for part in text.split(',') {
            let syntax = || CoreError::Syntax { part: part.trim().to_owned() };
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let parse = |number: &str| number.trim().parse::<usize>().map_err(|_| syntax());
            let (first, last) = (parse(first)?, parse(last)?);
            if first > last || last >= CORE_LIMIT {
                return Err(syntax());
            }
            for core in first..=last {
                if cores.contains(&core) {
                    return Err(CoreError::Twice { core });
                }
                cores.push(core);
            }
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut rest = &self.0[..];
        while let Some(&first) = rest.first() {
            let run = rest.iter().enumerate().take_while(|(i, core)| **core == first + i).count();
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", first + run - 1)?,
            }
            separator = ",";
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// The cores that the calling thread may run on, in ascending order.
///
/// # Errors
/// [`CoreError::Os`] if the kernel does not tell.
pub fn available_cores() -> Result<Vec<usize>, CoreError> {
    let set = sys::thread_affinity().map_err(|source| CoreError::Os { source })?;
    Ok((0..CORE_LIMIT).filter(|&core| sys::core_is_set(&set, core)).collect())
}

/// Lets the calling thread run on `core` only.
///
/// # Errors
/// [`CoreError::NotThere`] if it may not run there, with the cores where it may.
pub fn pin_to_core(core: usize) -> Result<(), CoreError> {
    let not_there = || -> CoreError {
        match available_cores() {
            Ok(there) => CoreError::NotThere { core, there },
            Err(error) => error,
        }
    };
    if core >= CORE_LIMIT {
        return Err(not_there());
    }
    sys::set_thread_affinity(core).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => not_there(),
        _ => CoreError::Os { source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<usize>, String> {
        text.parse::<CoreList>().map(|list| list.0).map_err(|error| error.to_string())
    }

    #[test]
    fn lists() {
        assert_eq!(parse("0"), Ok(vec![0]));
        assert_eq!(parse("0,2-3"), Ok(vec![0, 2, 3]));
        assert_eq!(parse(" 3 , 0 - 1 "), Ok(vec![3, 0, 1]));
        for wrong in ["", "a", "1,", "3-2", "-1", "1-", "0,x-3", "99999"] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains("0,2-3"), "{error}");
        }
        assert!(parse("0-2,1").expect_err("twice").contains("core 1 is named twice"));
    }

    #[test]
    fn printed_lists_parse_to_themselves() {
        for text in ["0", "0,2-3", "3,0-1", "0-7,9,11-12"] {
            assert_eq!(text.parse::<CoreList>().expect("legal").to_string(), text);
        }
    }

    #[test]
    fn a_pinned_thread_stays_on_its_core() {
        std::thread::spawn(|| {
            let core = *available_cores().expect("known").last().expect("one at least");
            pin_to_core(core).expect("it was available");
            assert_eq!(available_cores().expect("known"), [core]);
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_core_that_is_not_there_is_named() {
        for core in [CORE_LIMIT - 1, CORE_LIMIT, usize::MAX] {
            let error = pin_to_core(core).expect_err("no machine has so many").to_string();
            assert!(error.contains(&format!("core {core} is not there")), "{error}");
        }
        let list: CoreList = "1000".parse().expect("legal");
        assert!(matches!(list.check(), Err(CoreError::NotThere { core: 1000, .. })));
    }
}
