//! `include` and `exclude`: which events the sink gets at all. Both look at an event in one pass.

use super::Step;
use super::conditions::Conditions;
use crate::batch::{Delivery, Fate, Record};
use crate::metrics::FilterStep;
use crate::settings::steps::StepSettings;

/// Leaves out what does not meet a condition of `include`, if there is one, and what meets one of `exclude`.
#[derive(Debug)]
pub struct Filter {
    include: Conditions,
    exclude: Conditions,
}

impl Filter {
    /// The step; `None`: the settings have no conditions.
    pub fn new(settings: &StepSettings) -> Option<Self> {
        let (include, exclude) = (Conditions::new(&settings.include), Conditions::new(&settings.exclude));
        (!include.is_empty() || !exclude.is_empty()).then_some(Self { include, exclude })
    }
}

impl Step for Filter {
    fn apply(&self, delivery: Delivery) -> Delivery {
        let (mut include, mut exclude) = (self.include.evaluation(), self.exclude.evaluation());
        let fate = |record: &Record<'_>, _: &mut Vec<u8>| {
            if !self.include.is_empty() && !include.are_met(record) {
                Fate::Filter(FilterStep::Include)
            } else if !self.exclude.is_empty() && exclude.are_met(record) {
                Fate::Filter(FilterStep::Exclude)
            } else {
                Fate::Keep
            }
        };
        match self.include.need_attributes() || self.exclude.need_attributes() {
            true => delivery.shaped(fate),
            false => delivery.shaped_by_heads(fate),
        }
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
