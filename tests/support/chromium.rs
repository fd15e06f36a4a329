//! A headless Chromium, driven through a pipe (DevTools protocol): one page, its console and its requests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::wait_until;

/// For an answer of the browser on a busy machine, and for its start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pipe that the browser reads is its descriptor 3, the one that it writes to is 4.
const SCRIPT: &str = r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2"#;

/// Without a profile of its own, its services and their requests.
const ARGUMENTS: [&str; 15] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox", // a container has no user namespaces, and root may not use the sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--disable-lcd-text", // smaller pictures
    "--font-render-hinting=none",
];

/// A page in a browser of its own. Dropping it ends the browser.
pub(crate) struct Page {
    child: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
    session: String,
    next_id: u64,
    /// What the page has logged: exceptions, messages of the console, and errors of the browser about it.
    pub console: Vec<String>,
    /// The URLs that were requested.
    pub requests: Vec<String>,
    _profile: tempfile::TempDir,
}

/// Debian's package of the headless part alone, or the whole browser.
fn program() -> &'static str {
    let is_installed = |program: &&str| {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    ["chromium-headless-shell", "chromium"].into_iter().find(is_installed).expect("tools/test installs chromium")
}

impl Page {
    /// Starts a browser with an empty page.
    pub(crate) fn open() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, program()])
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let input = child.stdin.take();
        let output = child.stdout.take().expect("it is piped");
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                let _ = sender.send(serde_json::from_slice(&message).expect("messages are JSON"));
            }
        });
        let (session, console, requests) = (String::new(), Vec::new(), Vec::new());
        let mut page = Self { child, input, messages, session, next_id: 0, console, requests, _profile: profile };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = page.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page
    }

    /// Calls a method of the protocol, and returns its result.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.as_mut().expect("it is open").write_all(&bytes).expect("chromium runs: tools/test installs it");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message = self
                .messages
                .recv_timeout(left)
                .unwrap_or_else(|error| panic!("chromium does not answer {method}: {error} (tools/test installs it)"));
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                self.console.push(parameters.to_string());
            }
            "Network.requestWillBeSent" => {
                self.requests.push(parameters["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }

    /// Loads a URL.
    pub(crate) fn load(&mut self, url: &str) {
        let loaded = self.call("Page.navigate", json!({"url": url}));
        assert!(loaded["errorText"].is_null(), "{url}: {loaded}");
        self.wait_for("location.protocol !== 'about:' && document.readyState === 'complete'");
    }

    /// The value of a JavaScript expression.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let mut result = self
            .call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true, "awaitPromise": true}));
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// The text of the first element that the selector finds; empty where there is none.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let selector = Value::from(selector);
        let text = self.value(&format!("(document.querySelector({selector}) || {{}}).textContent || ''"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the expression is true. Panics with what the page shows where it is not in time.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let is_true = wait_until(PATIENCE, || self.value(expression) == Value::Bool(true));
        assert!(is_true, "not true: {expression}\n{}\n{:#?}", self.text("body"), self.console);
    }

    /// Sets the size of the window, and light or dark.
    pub(crate) fn look(&mut self, (width, height): (u32, u32), scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// What a screen reader finds: the role and the name of each element that has one.
    pub(crate) fn spoken(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let text = |node: &Value, key: &str| node[key]["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().expect("a tree").iter().filter(|node| node["ignored"] == false);
        nodes.map(|node| (text(node, "role"), text(node, "name"))).collect()
    }

    /// What the window shows, in base64: a WebP.
    pub(crate) fn screenshot(&mut self) -> String {
        let result = self.call("Page.captureScreenshot", json!({"format": "webp", "quality": 80}));
        result["data"].as_str().expect("an image").to_owned()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // A browser whose pipe is closed ends, with its processes.
        drop(self.input.take());
        let ended = wait_until(Duration::from_secs(10), || matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)));
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
