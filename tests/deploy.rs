//! What `examples/deploy/` has for users of the program `concur-auth`: clients that run, and units and manifests that say what the program
//! understands.

#![cfg(all(feature = "cli", feature = "simulator", unix))]

#[path = "cli/scene.rs"]
mod scene;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use concur_auth::simulator::Fault;
use serde_json::{Value, json};

use self::scene::{Ran, Scene, Serving};

const CLIENTS: [(&str, &str); 3] =
    [("python3", "clients/client.py"), ("node", "clients/client.mjs"), ("sh", "clients/client.sh")];

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap()
}

/// Whether this machine has the program; otherwise the test is skipped.
fn has(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok();
    if !is_there {
        skip::skip(&format!("there is no {program}"));
    }
    is_there
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_three_languages_call_an_api_and_get_a_token() {
    if !has("curl") {
        return;
    }
    for (interpreter, client) in CLIENTS {
        if interpreter != "sh" && !has(interpreter) {
            continue;
        }
        let scene = Scene::new().await;
        let run = |socket: &str| {
            let mut command = Command::new(interpreter);
            command.arg(deploy(client)).arg(scene.path(socket)).env_remove("CONCUR_AUTH_SOCKET");
            Ran::of(command.output().unwrap())
        };
        let ran = run("auth.sock");
        assert!(
            ran.code == Some(1) && ran.err.contains("is concur-auth serve running?"),
            "{client}: {ran:?}"
        );

        // While Concur answers nothing useful.
        scene.concur.set_fault(Fault::status(500).retry_after("600"));
        let serving = Serving::start(&scene, &["--proxy"]);
        let ran = run("auth.sock");
        assert!(ran.code == Some(1) && ran.err.contains("answered 500"), "{client}: {ran:?}");
        assert_eq!(serving.end(), Some(0));
        scene.concur.clear_faults();
        scene.run(&["renew", "--now"]).ok();

        let serving = Serving::start(&scene, &["--proxy"]);
        let ran = run("auth.sock");
        let printed = ran.ok();
        assert!(printed.starts_with("ada@example.com\na "), "{client}: {printed}");
        assert!(printed.contains("token") && printed.contains("valid until 20"), "{client}: {printed}");
        assert_eq!(scene.concur.count("refresh_token"), 0);
        assert_eq!(serving.end(), Some(0));

        // A person must act: the token is refused, and there is no request token.
        let credentials: Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
        let mut credentials = credentials.clone();
        credentials["companyRequestToken"] = "".into();
        scene.write("credentials.json", &credentials.to_string());
        fs::remove_file(scene.path("refreshTokenObjectFile.json")).unwrap();
        let serving = Serving::start(&scene, &["--proxy"]);
        let ran = run("auth.sock");
        assert!(ran.code == Some(2) && ran.err.contains("company request token"), "{client}: {ran:?}");
        assert_eq!(serving.end(), Some(0));
    }
}

/// The first box of this language below the heading "Without Rust" that has this in it.
fn of_readme(language: &str, with: &str) -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once("## Without Rust").unwrap();
    let begin = format!("```{language}\n");
    let boxes = section.split(&begin).skip(1);
    boxes.map(|text| text.split_once("```").unwrap().0).find(|text| text.contains(with)).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_readme_shows_in_three_languages_runs() {
    let scene = Scene::new().await;
    let serving = Serving::start(&scene, &["--proxy"]);
    for (interpreter, flag, language) in
        [("sh", "-c", "sh"), ("python3", "-c", "python"), ("node", "-e", "js")]
    {
        if !has(if language == "sh" { "curl" } else { interpreter }) {
            continue;
        }
        let code =
            of_readme(language, "profile/identity").replace("auth.sock http", "auth.sock --silent http");
        let mut command = Command::new(interpreter);
        let ran = Ran::of(command.args([flag, &code]).current_dir(scene.dir.path()).output().unwrap());
        let users: Value = serde_json::from_str(&ran.ok()).unwrap();
        assert_eq!(users["Resources"][0]["userName"], "ada@example.com", "{language}");
    }
    assert_eq!(serving.end(), Some(0));
    // The program understands the line that starts it.
    let start = of_readme("sh", "serve");
    let line = start.lines().find(|line| line.contains(" serve ")).unwrap();
    is_understood(&line.split('&').next().unwrap().split_whitespace().skip(1).collect::<Vec<_>>());
}

/// All documents of a manifest.
fn manifest(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(name)).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(text).collect()
}

/// The program takes these arguments: with them all understood, it gets as far as its help.
fn is_understood(arguments: &[&str]) {
    let ran = |more: &[&str]| {
        let all = [arguments, more].concat();
        Command::new(env!("CARGO_BIN_EXE_concur-auth")).args(&all).env_clear().output().unwrap()
    };
    assert_eq!(ran(&["--help"]).status.code(), Some(0), "{arguments:?}");
    // That would show nothing if the help came first.
    assert_eq!(ran(&["--no-such-flag", "--help"]).status.code(), Some(64), "{arguments:?}");
}

#[test]
fn a_sidecar_and_its_program_run_as_one_user_and_are_probed_by_status() {
    let documents = manifest("kubernetes/sidecar.yaml");
    let kinds: Vec<_> = documents.iter().map(|document| text(&document["kind"])).collect();
    assert_eq!(kinds, ["PersistentVolumeClaim", "Deployment"]);
    let deployment = &documents[1]["spec"];
    assert_eq!((&deployment["replicas"], &deployment["strategy"]["type"]), (&json!(1), &json!("Recreate")));
    let pod = &deployment["template"]["spec"];
    assert!(pod["securityContext"]["runAsUser"].as_u64().unwrap() > 0);
    let (sidecar, program) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(sidecar["restartPolicy"], "Always");
    for container in [sidecar, program] {
        assert_eq!(container["securityContext"].get("runAsUser"), None, "{container}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    }
    is_understood(&texts(&sidecar["args"]));
    assert_eq!(sidecar.get("livenessProbe"), None);
    for probe in ["startupProbe", "readinessProbe"] {
        let command = texts(&sidecar[probe]["exec"]["command"]);
        assert_eq!(command[0], "/usr/local/bin/concur-auth");
        assert!(command.contains(&"status"), "{command:?}");
        is_understood(&command[1..]);
    }
    // Each mount has its volume, and the program finds the socket where the sidecar makes it.
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|it| text(&it["name"])).collect();
    for mount in [sidecar, program].iter().flat_map(|it| it["volumeMounts"].as_array().unwrap()) {
        assert!(volumes.contains(&text(&mount["name"])), "{mount}");
    }
    let socket = texts(&sidecar["args"]).into_iter().skip_while(|it| *it != "--socket").nth(1);
    assert_eq!(socket, program["env"][0]["value"].as_str());
}

#[test]
fn a_nightly_job_renews_what_is_due() {
    let documents = manifest("kubernetes/cronjob.yaml");
    let [job] = &documents[..] else { panic!("{documents:?}") };
    assert_eq!((&job["kind"], &job["spec"]["concurrencyPolicy"]), (&json!("CronJob"), &json!("Forbid")));
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    assert!(pod["securityContext"]["runAsUser"].as_u64().unwrap() > 0);
    let arguments = texts(&pod["containers"][0]["args"]);
    assert_eq!(arguments, ["fleet", "work", "--until-idle"]);
    is_understood(&arguments);
}

#[test]
fn the_image_has_the_program_the_certificates_and_a_user() {
    let text = read("Containerfile");
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let last = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
    assert_eq!(lines[last], "FROM scratch");
    let of_image = &lines[last + 1..];
    // Where rustls-platform-verifier looks for them.
    assert!(of_image[0].ends_with(" /etc/ssl/certs/ca-certificates.crt"));
    assert_eq!(
        of_image[1..4],
        [
            "COPY concur-auth /usr/local/bin/concur-auth",
            "USER 65532:65532",
            r#"ENTRYPOINT ["/usr/local/bin/concur-auth"]"#
        ]
    );
}

/// The value of the first such line of a unit.
fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap()
}

#[test]
fn systemd_accepts_the_units_and_finds_them_hardened() {
    let (service, socket) = (read("systemd/concur-auth.service"), read("systemd/concur-auth.socket"));
    let arguments: Vec<_> = setting(&service, "ExecStart").split(' ').collect();
    is_understood(&arguments[1..]);
    assert_eq!(setting(&service, "Type"), "notify");
    assert_eq!(arguments[2], format!("/var/lib/{}", setting(&service, "StateDirectory")));
    if !has("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The program lies elsewhere here; without an [Install] section of their own, the units are as they are.
    let service = service.replace(arguments[0], env!("CARGO_BIN_EXE_concur-auth"));
    for (name, unit) in [("concur-auth.service", service), ("concur-auth.socket", socket)] {
        fs::write(folder.path().join(name), unit).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        Ran::of(command.args(arguments).current_dir(folder.path()).output().unwrap())
    };
    for unit in ["./concur-auth.service", "./concur-auth.socket"] {
        let ran = analyze(&["verify", "--man=no", unit]);
        // It tells of other units of this machine, too.
        let ours: Vec<_> = ran.err.lines().filter(|line| line.contains("concur-auth")).collect();
        assert!(ran.code == Some(0) && ours.is_empty(), "{ran:?}");
    }
    // Of 0 (closed) to 100 (open).
    let ran = analyze(&["security", "--offline=true", "--threshold=15", "./concur-auth.service"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}
