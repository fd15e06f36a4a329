//! `tools/compose.yaml` without Docker: the schema of the Compose Specification, the files that it mounts, and the settings of
//! its server.
#![cfg(all(feature = "postgres", feature = "redis", feature = "grpc"))]

use std::path::Path;
use std::process::{Command, Stdio};

/// Prints the file as JSON, after a check against the schema.
const VALIDATE: &str = "
import json, sys, jsonschema, yaml
schema = json.load(open(sys.argv[1]))
compose = yaml.safe_load(open(sys.argv[2]))
checker = jsonschema.Draft7Validator
checker.check_schema(schema)
problems = [f'{error.json_path}: {error.message}' for error in checker(schema).iter_errors(compose)]
if problems:
    sys.exit('\\n'.join(problems))
json.dump(compose, sys.stdout)
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file as JSON, or why it is not valid.
fn validated(file: &Path) -> Result<serde_json::Value, String> {
    let schema = root().join("tests/fixtures/compose-spec/compose-spec.json");
    let output = Command::new(crate::support::stores::python())
        .args(["-c", VALIDATE])
        .arg(schema)
        .arg(file)
        .output()
        .expect("python3");
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!reason.contains("ModuleNotFoundError"), "run tools/test, which installs it: {reason}");
    Err(reason)
}

#[test]
fn the_compose_file_follows_the_specification() {
    let compose = validated(&root().join("tools/compose.yaml")).unwrap();
    let services = compose["services"].as_object().unwrap();
    let names: Vec<_> = services.keys().map(String::as_str).collect();
    for name in ["telemetryx", "postgres", "redis", "receiver", "prometheus", "grafana"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for (name, service) in services {
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = mount.as_str().unwrap().split(':').next().unwrap();
            match source.strip_prefix("./") {
                Some(file) => assert!(root().join("tools").join(file).is_file(), "{name} mounts {source}"),
                None => assert!(compose["volumes"].as_object().unwrap().contains_key(source), "{name}: {source}"),
            }
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name} is open to other machines: {port}");
        }
        if let Some(context) = service["build"].as_str().or(service["build"]["context"].as_str()) {
            assert!(root().join("tools").join(context).is_dir(), "{name} is built in {context}");
        }
    }
    let inline = services["receiver"]["build"]["dockerfile_inline"].as_str().unwrap();
    for file in inline.lines().filter_map(|line| line.strip_prefix("COPY ")).flat_map(str::split_whitespace) {
        assert!(file.starts_with('.') || root().join("tools/python").join(file).is_file(), "{file}");
    }
}

#[test]
fn a_wrong_compose_file_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("compose.yaml");
    let text = std::fs::read_to_string(root().join("tools/compose.yaml")).unwrap();
    std::fs::write(&file, text.replace("stop_grace_period: 15s", "stop_grace_periode: 15s")).unwrap();
    let reason = validated(&file).unwrap_err();
    assert!(reason.contains("$.services.telemetryx") && reason.contains("stop_grace_periode"), "{reason}");
}

/// Hosts in the settings are services, and the settings are valid.
#[test]
fn the_settings_of_the_server_are_valid_and_name_its_services() {
    let compose = validated(&root().join("tools/compose.yaml")).unwrap();
    let settings = root().join("tools/compose/telemetryx.toml");
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_telemetryx"))
        .args(["check", "--json"])
        .current_dir(directory.path())
        .env_clear()
        .env("TELEMETRYX_CONFIG", &settings)
        .env("POSTGRES_PASSWORD", "secret")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(checked["sinks"].as_array().unwrap().len(), 4, "{checked}");
    let text = std::fs::read_to_string(settings).unwrap();
    let urls = text.lines().filter_map(|line| line.strip_prefix("url = ")?.split('"').nth(1));
    let hosts = urls.filter_map(|url| url.split("://").nth(1)?.rsplit('@').next()?.split(':').next());
    let hosts: Vec<_> = hosts.collect();
    assert_eq!(hosts, ["postgres", "redis", "receiver"]);
    assert!(hosts.iter().all(|host| compose["services"].get(host).is_some()));
    // The password of both is the same variable.
    let password = |service: &str| compose["services"][service]["environment"]["POSTGRES_PASSWORD"].clone();
    assert_eq!(password("telemetryx"), password("postgres"));
}

/// Prometheus reads the port that the server listens on.
#[test]
fn prometheus_and_grafana_find_what_they_show() {
    let read = |name: &str| std::fs::read_to_string(root().join("tools").join(name)).unwrap();
    assert!(read("prometheus/prometheus.yaml").contains("[\"telemetryx:4640\"]"));
    assert!(read("compose/grafana-datasource.yaml").contains("url: http://prometheus:9090\n"));
    let compose = read("compose.yaml");
    let folder = "/var/lib/grafana/dashboards";
    assert!(read("compose/grafana-dashboards.yaml").contains(&format!("path: {folder}\n")));
    assert!(compose.contains(&format!("./grafana/dashboard.json:{folder}/telemetryx.json:ro")));
}
