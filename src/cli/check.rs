//! `telemetryx check`: are the settings sound?

use super::{Failure, SettingsArgs, print};

pub fn run(settings: &SettingsArgs) -> Result<(), Failure> {
    print(&format!("{}\n", settings.load()?.summary()))
}
