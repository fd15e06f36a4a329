//! What packages contain: the unit of systemd, settings, manual pages and completions, without building a package (`make deb-test`
//! does).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn telemetryx(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetryx"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null()).output().unwrap()
}

/// The values of a key of the unit, in their order.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn unit_settings_and_scripts_of_the_package_fit_together() {
    let unit = page("tools/systemd/telemetryx.service");
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "RestartPreventExitStatus"), ["2 78"]);
    assert_eq!(values(&unit, "User"), ["telemetryx"]);
    assert!(!values(&unit, "WatchdogSec").is_empty());
    let manifest: toml::Table = page("Cargo.toml").parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap();
    let installs = |path: &str| assets.iter().any(|asset| asset[1].as_str() == path.strip_prefix('/'));
    assert!(installs(values(&unit, "ExecStart")[0].split(' ').next().unwrap()));
    let settings = values(&unit, "Environment")[0].strip_prefix("TELEMETRYX_CONFIG=").unwrap();
    assert!(installs(settings));
    assert_eq!(deb["conf-files"][0].as_str(), Some(settings));
    for asset in assets {
        let source = asset[0].as_str().unwrap();
        // The others are created by tools/deb, or are patterns.
        if !source.starts_with("target/") && !source.contains('*') {
            assert!(root().join(source).is_file(), "{source}");
        }
    }
    let script = page("tools/debian/postinst");
    assert!(script.contains("--home-dir /var/lib/telemetryx --shell /usr/sbin/nologin telemetryx\n"));

    let folder = tempfile::tempdir().unwrap();
    let file = root().join("tools/debian/telemetryx.toml");
    let shown = telemetryx(folder.path(), &["config", "--config", file.to_str().unwrap()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("data_dir = \"/var/lib/telemetryx\" #"), "{shown}");
    assert_eq!(values(&unit, "StateDirectory"), ["telemetryx"]);
    // The stop may take as long as the settings allow.
    assert!(shown.contains("\ndrain_timeout = \"10s\"\n") && values(&unit, "TimeoutStopSec") == ["30s"], "{shown}");
}

/// Runs the script that follows an installation, where these entries of `passwd` and `group` exist: what it calls.
fn configured(existing: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    fs::write(&calls, "").unwrap();
    let stub = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    stub("getent", "case \" $EXISTING \" in *\" $1 \"*) exit 0 ;; *) exit 2 ;; esac");
    ["useradd", "install"].iter().for_each(|name| stub(name, &format!("echo {name} \"$@\" >>\"$CALLS\"")));
    let mut script = Command::new("sh");
    script.arg(root().join("tools/debian/postinst")).args(["configure", ""]);
    script.env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
    assert!(script.env("EXISTING", existing).env("CALLS", &calls).status().unwrap().success());
    let calls = fs::read_to_string(calls).unwrap();
    calls.lines().filter(|call| call.starts_with("useradd")).map(str::to_owned).collect()
}

#[test]
fn the_user_of_the_package_is_created_once_also_where_its_group_exists() {
    let rest = "--no-create-home --home-dir /var/lib/telemetryx --shell /usr/sbin/nologin telemetryx";
    assert_eq!(configured(""), [format!("useradd --system --user-group {rest}")]);
    assert_eq!(configured("group"), [format!("useradd --system --gid telemetryx {rest}")]);
    assert_eq!(configured("passwd group"), [""; 0]);
}

/// Runs tools/syslog/install, where apt-get and dpkg-deb are scripts of the test: what it prints.
fn unpacked(folder: &Path, directory: &Path) -> String {
    let stub = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\nset -e\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    stub("apt-get", "touch rsyslog.deb syslog-ng-core.deb");
    // dpkg-deb -x PACKAGE DIRECTORY
    stub("dpkg-deb", "mkdir -p \"$3/usr/lib\"\ntouch \"$3/usr/lib/${2%.deb}\"\nln -sf missing \"$3/usr/lib/link\"");
    let mut script = Command::new(root().join("tools/syslog/install"));
    script.arg(directory).env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_daemons_of_syslog_are_unpacked_again_where_a_file_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("syslog");
    let install = || unpacked(folder.path(), &directory);
    assert!(install().starts_with("unpacking into "));
    assert_eq!(install(), "", "nothing is missing");
    fs::remove_file(directory.join("usr/lib/syslog-ng-core")).unwrap();
    assert!(install().starts_with("unpacking into "), "a file is missing");
    assert!(directory.join("usr/lib/syslog-ng-core").exists());
    fs::write(directory.join("packages"), "rsyslog\n").unwrap();
    assert!(install().starts_with("unpacking into "), "other packages");
    fs::remove_file(directory.join("packages")).unwrap();
    assert!(install().starts_with("unpacking into "), "an interrupted run");
    assert_eq!(install(), "");
}

#[test]
fn the_document_ends_the_old_server_for_good_before_a_move() {
    assert_eq!(values(&page("tools/systemd/telemetryx.service"), "WantedBy"), ["multi-user.target"]);
    let page = page("docs/deployment.md");
    let (_, rest) = page.split_once("\n## Move a server\n").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    assert!(
        section.contains("1. `systemctl disable --now telemetryx`"),
        "the unit is enabled: a reboot starts it again"
    );
}

#[test]
fn every_command_of_the_help_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let written = telemetryx(folder.path(), &["man", "--dir", "share/man1"]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let help = String::from_utf8(telemetryx(folder.path(), &["--help"]).stdout).unwrap();
    let (_, commands) = help.split_once("\nCommands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let names: Vec<_> =
        commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() >= 10, "{help}");
    for name in &names {
        let page = fs::read(folder.path().join(format!("share/man1/telemetryx-{name}.1"))).unwrap();
        assert_eq!(telemetryx(folder.path(), &["man", name]).stdout, page, "{name}");
    }
    let nested = telemetryx(folder.path(), &["man", "wal", "inspect"]);
    assert_eq!(nested.stdout, fs::read(folder.path().join("share/man1/telemetryx-wal-inspect.1")).unwrap());

    let unknown = telemetryx(folder.path(), &["man", "wall"]);
    assert_eq!(unknown.status.code(), Some(2));
    let refused = telemetryx(folder.path(), &["man", "--dir", "share/man1/telemetryx.1"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.starts_with("telemetryx: cannot write share/man1/telemetryx.1: "), "{message}");
}

/// What bash offers for a command line whose last word is incomplete.
fn completed(script: &str, words: &[&str]) -> Vec<String> {
    let line = format!(
        "{script}\nCOMP_WORDS=({}) COMP_CWORD={}\n_telemetryx telemetryx {:?} {:?}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["-c", &line]).output().expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let script = String::from_utf8(telemetryx(folder.path(), &["completions", "bash"]).stdout).unwrap();
    assert_eq!(completed(&script, &["telemetryx", "comp"]), ["completions"]);
    assert_eq!(completed(&script, &["telemetryx", "wal", "in"]), ["inspect"]);
    assert_eq!(completed(&script, &["telemetryx", "wal", "inspect", "--ag"]), ["--agents"]);
    assert_eq!(completed(&script, &["telemetryx", "completions", "z"]), ["zsh"]);
    let unknown = telemetryx(folder.path(), &["completions", "tcsh"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("bash"), "the shells are named");
}
