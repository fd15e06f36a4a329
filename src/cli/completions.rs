//! `telemetryx completions`: what a shell needs to complete commands and options.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, Failure, print_as_is};

#[derive(Args)]
#[command(after_help = "\
Examples:
  telemetryx completions bash > /etc/bash_completion.d/telemetryx
  telemetryx completions zsh > /usr/local/share/zsh/site-functions/_telemetryx
  telemetryx completions fish > ~/.config/fish/completions/telemetryx.fish")]
pub(super) struct CompletionsArgs {
    /// The shell whose script is printed
    #[arg(value_name = "SHELL")]
    pub(super) shell: Shell,
}

pub(super) fn run(shell: Shell) -> Result<(), Failure> {
    print_as_is(&script(shell))
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "telemetryx", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn each_shell_has_a_script_with_every_command() {
        let mut command = Cli::command();
        command.build();
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for command in command.get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
