//! `include` and `exclude`: which events the sink gets at all. Both look at an event in one pass.

use super::Step;
use super::conditions::Conditions;
use crate::batch::{Delivery, Fate, FatesByNumbers, Record};
use crate::metrics::FilterStep;
use crate::settings::steps::StepSettings;

/// Leaves out what does not meet a condition of `include`, if there is one, and what meets one of `exclude`.
#[derive(Debug)]
pub struct Filter {
    include: Conditions,
    exclude: Conditions,
    /// Where kind and severity decide.
    by_numbers: Option<FatesByNumbers>,
}

impl Filter {
    /// The step; `None`: the settings have no conditions.
    pub fn new(settings: &StepSettings) -> Option<Self> {
        let (include, exclude) = (Conditions::new(&settings.include), Conditions::new(&settings.exclude));
        if include.is_empty() && exclude.is_empty() {
            return None;
        }
        let by_numbers = (include.need_only_numbers() && exclude.need_only_numbers()).then(|| {
            FatesByNumbers::new(|kind, severity| {
                let are_met = |conditions: &Conditions| conditions.allow(kind, severity);
                fate(include.is_empty() || are_met(&include), || are_met(&exclude))
            })
        });
        Some(Self { include, exclude, by_numbers })
    }
}

/// That of an event, by whether it meets `include`, and `exclude`.
#[inline(always)]
fn fate(is_included: bool, is_excluded: impl FnOnce() -> bool) -> Fate {
    if !is_included {
        Fate::Filter(FilterStep::Include)
    } else if is_excluded() {
        Fate::Filter(FilterStep::Exclude)
    } else {
        Fate::Keep
    }
}

impl Step for Filter {
    fn apply(&self, delivery: Delivery) -> Delivery {
        if let Some(fates) = &self.by_numbers {
            return delivery.shaped_by_numbers(fates);
        }
        let (mut include, mut exclude) = (self.include.evaluation(), self.exclude.evaluation());
        let fate = |record: &Record<'_>, _: &mut Vec<u8>| {
            let is_included = self.include.is_empty() || include.are_met(record);
            fate(is_included, || !self.exclude.is_empty() && exclude.are_met(record))
        };
        delivery.shaped_by_heads(fate)
    }

    fn reason(&self, record: &Record<'_>) -> Option<String> {
        let included = self.include.evaluation().first_met(record);
        let excluded = self.exclude.evaluation().first_met(record);
        match (self.include.is_empty(), included, excluded) {
            (false, None, _) => Some("left out: meets no condition of include".to_owned()),
            (_, _, Some(index)) => Some(format!("left out: meets condition {} of exclude", index + 1)),
            (_, Some(index), None) => Some(format!("meets condition {} of include", index + 1)),
            (true, None, None) => None,
        }
    }
}
