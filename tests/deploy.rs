//! `examples/deploy`: its clients reach Concur through the program, and its manifests, units and image fit the program and each other.

#![cfg(all(feature = "cli", feature = "simulator", unix))]

#[path = "deploy/files.rs"]
mod files;
#[path = "cli/scene.rs"]
mod scene;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use concur_auth::simulator::Fault;
use serde_json::Value;

use self::{
    files::{exec_start, manifest, read, texts, unit},
    scene::{Ran, Scene, Serving, raw, status_of},
};

const SIDECAR: &str = "kubernetes/sidecar.yaml";
const CRON_JOB: &str = "kubernetes/cronjob.yaml";
const SERVICE: &str = "systemd/concur-auth.service";
const SOCKET: &str = "systemd/concur-auth.socket";
/// Where units and image have the program.
const INSTALLED: &str = "/usr/local/bin/concur-auth";

/// Whether each program runs here; otherwise the test says that it is skipped.
fn has(programs: &[&str]) -> bool {
    let runs = |program: &&&str| Command::new(program).arg("--version").output().is_ok();
    let missing: Vec<_> = programs.iter().filter(|program| !runs(program)).collect();
    if !missing.is_empty() {
        skip::skip(&format!("these programs are not there: {missing:?}"));
    }
    missing.is_empty()
}

/// The box in this language below the README's heading "Without Rust" that has this in it.
fn of_readme(language: &str, with: &str) -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once("## Without Rust").unwrap();
    let begin = format!("```{language}\n");
    let boxes = section.split(&begin).skip(1).map(|text| text.split_once("```").unwrap().0);
    boxes.into_iter().find(|text| text.contains(with)).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_readme_shows_in_three_languages_runs() {
    let scene = Scene::new().await;
    // Its lines that unpack, sign in and serve: the program understands each.
    for line in of_readme("sh", "init").lines().filter(|line| line.starts_with("./concur-auth")) {
        let arguments = line.split(['#', '&']).next().unwrap().split_whitespace().skip(1);
        let arguments: Vec<_> = arguments.chain(["--help"]).collect();
        assert_eq!(scene.run(&arguments).code, Some(0), "{line}");
    }
    let serving = Serving::start(&scene, &["--proxy"]);
    for (language, run) in [("sh", ["sh", "-c"]), ("python", ["python3", "-c"]), ("js", ["node", "-e"])] {
        if !has(&[if language == "sh" { "curl" } else { run[0] }]) {
            continue;
        }
        let code = of_readme(language, "/api/profile").replace("curl ", "curl --silent ");
        let mut command = Command::new(run[0]);
        let ran = Ran::of(command.args([run[1], &code]).current_dir(scene.dir.path()).output().unwrap());
        let users: Value = serde_json::from_str(&ran.ok()).unwrap();
        assert_eq!(users["Resources"][0]["userName"], "ada@example.com", "{language}");
    }
    assert_eq!(serving.end(), Some(0));
}

/// A client of `examples/deploy/clients`, run as the administrator of an application would.
struct Client<'a> {
    scene: &'a Scene,
    interpreter: &'static str,
    file: &'static str,
}

impl Client<'_> {
    fn run(&self, arguments: &[&Path], variables: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(self.interpreter);
        for name in ["CONCUR_AUTH_SOCKET", "CONCUR_AUTH_URL", "CONCUR_AUTH_KEY_FILE"] {
            command.env_remove(name);
        }
        // A proxy is not for what is on this machine.
        command.env("http_proxy", "http://127.0.0.1:1").env("no_proxy", "127.0.0.1");
        command.arg(files::path(self.file)).args(arguments).envs(variables.iter().copied());
        Ran::of(command.current_dir(self.scene.dir.path()).stdin(Stdio::null()).output().unwrap())
    }

    /// Whether the token went to Concur alone, and never into the output.
    fn shows_no_token(&self, ran: &Ran) {
        for request in self.scene.concur.requests() {
            let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
            let is_shown = |token| ran.out.contains(token) || ran.err.contains(token);
            assert!(!token.is_some_and(is_shown), "{ran:?}");
        }
    }
}

/// All that a client promises.
async fn keeps_its_promises(interpreter: &'static str, file: &'static str) {
    const USER: &str = "5b8a4c3e-0000-4000-8000-000000000000 ada@example.com";
    let scene = Scene::new().await;
    let client = Client { scene: &scene, interpreter, file };
    let socket = scene.path("auth.sock");

    // Nothing is there.
    let ran = client.run(&[&socket], &[]);
    assert!(ran.err.contains(&format!("no answer from {}", socket.display())), "{ran:?}");
    ran.failed(1, "no answer from ");

    // By a path, by a variable, and over loopback with the key.
    let serving = Serving::start(&scene, &["--proxy"]);
    let by_path = client.run(&[&socket], &[]);
    let by_variable = client.run(&[], &[("CONCUR_AUTH_SOCKET", socket.to_str().unwrap())]);
    let url = format!("http://{}", serving.address);
    let over_loopback = client.run(&[], &[("CONCUR_AUTH_URL", &url), ("CONCUR_AUTH_KEY_FILE", "key")]);
    for ran in [by_path, by_variable, over_loopback] {
        client.shows_no_token(&ran);
        assert_eq!(ran.ok(), format!("through the proxy: 200\n  {USER}\nwith a token: 200\n  {USER}\n"));
    }
    let calls = scene.concur.requests();
    let calls: Vec<_> = calls.iter().filter(|call| call.path() == "/profile/identity/v4/Users").collect();
    assert!(calls.len() == 6 && calls.iter().all(|call| call.status() == Some(200)), "{calls:?}");
    assert_eq!(scene.concur.token_requests(), 1);

    // An error of the API is no missing token, also with the same status.
    scene.concur.fault_api(1, Fault::status(503).body(r#"{"busy": true}"#));
    client.run(&[&socket], &[]).failed(1, r#"503: {"busy": true}"#);
    drop(serving);

    // There is no token, and that passes.
    fs::remove_file(scene.path("refreshTokenObjectFile.json")).unwrap();
    scene.concur.set_fault(Fault::status(503).retry_after("77"));
    let serving = Serving::start(&scene, &["--proxy"]);
    let ran = client.run(&[&socket], &[]);
    assert!(ran.err.starts_with("no token: ") && ran.err.contains("; ask again in "), "{ran:?}");
    ran.failed(1, "503");
    drop(serving);

    // A person is needed.
    scene.write("credentials.json", "{}");
    let serving = Serving::start(&scene, &["--proxy"]);
    let ran = client.run(&[&socket], &[]);
    assert!(ran.err.starts_with("no token: ") && ran.err.ends_with("; a person must act\n"), "{ran:?}");
    ran.failed(2, "credentials.json");
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_python_calls_apis_or_says_why_not() {
    if has(&["python3"]) {
        keeps_its_promises("python3", "clients/client.py").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_javascript_calls_apis_or_says_why_not() {
    if has(&["node"]) {
        keeps_its_promises("node", "clients/client.mjs").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_shell_calls_apis_or_says_why_not() {
    if has(&["curl"]) {
        keeps_its_promises("sh", "clients/client.sh").await;
    }
}

/// The documents of a manifest, and the template of its one pod.
fn pod(name: &str) -> (Vec<Value>, Value) {
    let documents = manifest(name);
    let spec = &documents.last().unwrap()["spec"];
    let spec = if name == CRON_JOB { &spec["jobTemplate"]["spec"] } else { spec };
    let pod = spec["template"]["spec"].clone();
    assert!(pod.is_object(), "{documents:?}");
    (documents, pod)
}

/// All containers of a pod; a sidecar is one of them.
fn containers(pod: &Value) -> Vec<Value> {
    let lists = [&pod["initContainers"], &pod["containers"]].map(|list| list.as_array().cloned());
    lists.into_iter().flatten().flatten().collect()
}

fn kinds(documents: &[Value]) -> Vec<&str> {
    documents.iter().map(|document| document["kind"].as_str().unwrap()).collect()
}

#[test]
fn the_pods_run_as_the_images_user_without_privileges() {
    let image = read("Containerfile");
    let user = image.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    for name in [SIDECAR, CRON_JOB] {
        let (_, pod) = pod(name);
        let context = &pod["securityContext"];
        assert_eq!(format!("{}:{}", context["runAsUser"], context["runAsGroup"]), user, "{name}");
        assert_eq!(
            (&context["runAsNonRoot"], &context["seccompProfile"]["type"]),
            (&true.into(), &"RuntimeDefault".into())
        );
        assert!(pod["terminationGracePeriodSeconds"].as_i64().unwrap() > 10, "{name}");
        for container in containers(&pod) {
            let context = &container["securityContext"];
            // One user for all: a container of another user could not open the socket.
            assert!(context["runAsUser"].is_null() && context["runAsGroup"].is_null(), "{container}");
            assert_eq!(
                (&context["allowPrivilegeEscalation"], &context["readOnlyRootFilesystem"]),
                (&false.into(), &true.into()),
                "{container}"
            );
            assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{container}");
        }
    }
}

#[test]
fn the_sidecar_shares_its_socket_and_nothing_else() {
    let (documents, pod) = pod(SIDECAR);
    assert_eq!(kinds(&documents), ["PersistentVolumeClaim", "Deployment"]);
    let deployment = &documents[1]["spec"];
    // Two pods at once would use the same tokens, also during a roll-out.
    assert_eq!((&deployment["replicas"], &deployment["strategy"]["type"]), (&1.into(), &"Recreate".into()));
    let labels = &deployment["template"]["metadata"]["labels"];
    assert_eq!(&deployment["selector"]["matchLabels"], labels);

    let volumes = pod["volumes"].as_array().unwrap();
    let volume = |name: &str| volumes.iter().find(|volume| volume["name"] == name).unwrap();
    assert!(volume("socket")["emptyDir"].is_object());
    assert_eq!(volume("tokens")["persistentVolumeClaim"]["claimName"], documents[0]["metadata"]["name"]);
    assert!(volume("credentials")["secret"]["secretName"].is_string());
    let mounts = |container: &Value| -> Vec<(String, String, bool)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mounts = container["volumeMounts"].as_array().unwrap().iter();
        mounts.map(|it| (text(&it["name"]), text(&it["mountPath"]), it["readOnly"] == true)).collect()
    };
    let [sidecar, application] = &containers(&pod)[..] else { panic!("{pod}") };
    assert_eq!(sidecar["restartPolicy"], "Always");
    let socket = ("socket".to_owned(), "/run/concur-auth".to_owned(), false);
    let of_sidecar = mounts(sidecar);
    assert_eq!((of_sidecar.len(), &of_sidecar[0]), (3, &socket));
    assert_eq!(mounts(application), [(socket.0, socket.1, true)]);
    let args = texts(&sidecar["args"]);
    let path = &args[args.iter().position(|it| it == "--socket").unwrap() + 1];
    assert_eq!(variable(application, "CONCUR_AUTH_SOCKET"), *path);

    // Only what a restart could repair may be a reason for one.
    assert_eq!(texts(&sidecar["readinessProbe"]["exec"]["command"]), [INSTALLED, "status"]);
    assert!(sidecar["livenessProbe"].is_null() && sidecar["startupProbe"].is_null());
}

#[test]
fn the_cron_job_runs_one_at_a_time_with_secrets_from_a_secret() {
    let (documents, pod) = pod(CRON_JOB);
    assert_eq!(kinds(&documents), ["CronJob"]);
    let spec = &documents[0]["spec"];
    assert_eq!(spec["concurrencyPolicy"], "Forbid");
    let job = &spec["jobTemplate"]["spec"];
    // The kubelet must not start a failed container again: then the rules on exit codes would say nothing.
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(
        job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"],
        Value::from(vec![2, 64]),
        "{job}"
    );
    let [container] = &containers(&pod)[..] else { panic!("{pod}") };
    assert_eq!(texts(&container["args"]), ["fleet", "work", "--until-idle"]);
    let variables = container["env"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["CONCUR_AUTH_FLEET", "CONCUR_APP_ID", "CONCUR_CLIENT_SECRET", "CONCUR_AUTH_SEALING_KEYS"]
    );
    for variable in variables {
        let from = &variable["valueFrom"]["secretKeyRef"];
        assert!(from["name"].is_string() && from["key"].is_string(), "{variable}");
    }
}

/// A variable of a container, if it is written in the manifest.
fn variable(container: &Value, name: &str) -> String {
    let variables = container["env"].as_array().unwrap();
    let found = variables.iter().find(|variable| variable["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {container}"))["value"].as_str().unwrap().to_owned()
}

/// Every command line of the program in `examples/deploy`, without the program itself.
fn command_lines() -> Vec<Vec<String>> {
    let mut lines =
        vec![exec_start("/var/lib", "")[1..].to_vec(), exec_start("/var/lib", CLIENTS)[1..].to_vec()];
    for container in [SIDECAR, CRON_JOB].iter().flat_map(|name| containers(&pod(name).1)) {
        lines.extend(Some(texts(&container["args"])).filter(|args| !args.is_empty()));
        for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
            let command = texts(&container[probe]["exec"]["command"]);
            lines.extend(command.split_first().map(|(_, arguments)| arguments.to_vec()));
        }
    }
    // In the image's text, in comments and in the README: what follows the program's name, up to the end of the command.
    let all = ["README.md", "Containerfile", SIDECAR, CRON_JOB].map(read).join("\n");
    for line in all.lines() {
        for (at, _) in line.match_indices("concur-auth ") {
            let is_start = at == 0 || [" ", "`", "/"].iter().any(|before| line[..at].ends_with(before));
            let end = |c: char| matches!(c, '`' | '<' | '|' | '&' | '#' | ';');
            let command = line[at..].split(end).next().unwrap();
            let words: Vec<_> = command.split_whitespace().skip(1).map(str::to_owned).collect();
            let known =
                ["serve", "status", "fleet", "doctor", "init", "adopt", "revoke", "exec", "renew", "--fleet"];
            if is_start && words.first().is_some_and(|first| known.iter().any(|it| first.starts_with(it))) {
                lines.push(words);
            }
        }
    }
    lines
}

/// What the unit and the README say about a user of the socket.
const CLIENTS: &str = "--allow-uid 1001";

/// `--help` is answered only if the program understands all that comes before it.
#[tokio::test]
async fn the_program_accepts_every_command_line() {
    let scene = Scene::new().await;
    let lines = command_lines();
    assert!(lines.len() >= 8, "{lines:?}");
    for line in lines {
        let arguments: Vec<_> = line.iter().map(String::as_str).collect();
        let ran = scene.run(&[&arguments[..], &["--help"]].concat());
        assert!(ran.code == Some(0) && ran.out.contains("Usage:"), "{line:?}: {ran:?}");
        scene.run(&[&arguments[..], &["--no-such-flag", "--help"]].concat()).failed(64, "--no-such-flag");
    }
}

#[test]
fn the_image_has_the_program_certificates_and_no_shell() {
    let image = read("Containerfile");
    let last = image.split("\nFROM ").last().unwrap();
    assert!(last.starts_with("scratch\n"), "{last}");
    // A path of https://docs.rs/openssl-probe, where the program looks for authorities.
    assert!(last.contains(" /etc/ssl/certs/ca-certificates.crt\n"), "{last}");
    assert!(last.contains(&format!("concur-auth {INSTALLED}\n")), "{last}");
    assert!(last.contains(&format!("ENTRYPOINT [\"{INSTALLED}\"]\n")), "{last}");
    assert!(!last.contains("\nRUN "), "{last}");
}

/// The sidecar as in the manifest, its volumes in folders of the test; then its probe, while all is well and while a person is needed.
#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_serves_and_its_probe_tells_when_a_person_is_needed() {
    let scene = Scene::new().await;
    let (_, pod) = pod(SIDECAR);
    let sidecar = &containers(&pod)[0];
    let here = |text: &str| {
        let mut text = text.to_owned();
        for mount in sidecar["volumeMounts"].as_array().unwrap() {
            let folder = scene.path(mount["name"].as_str().unwrap());
            text = text.replace(mount["mountPath"].as_str().unwrap(), folder.to_str().unwrap());
        }
        text
    };
    for mount in sidecar["volumeMounts"].as_array().unwrap() {
        fs::create_dir(scene.path(mount["name"].as_str().unwrap())).unwrap();
    }
    fs::rename(scene.path("credentials.json"), scene.path("credentials/credentials.json")).unwrap();
    let command = |arguments: Vec<String>| {
        let arguments: Vec<_> = arguments.iter().map(|it| here(it)).collect();
        let mut command = scene.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        for name in ["CONCUR_AUTH_DIR", "CREDENTIALS_DIRECTORY"] {
            command.env(name, here(&variable(sidecar, name)));
        }
        command.current_dir("/");
        command
    };
    let probe = || {
        let command_line = texts(&sidecar["readinessProbe"]["exec"]["command"]);
        Ran::of(command(command_line[1..].to_vec()).output().unwrap()).code
    };

    let mut child = command(texts(&sidecar["args"])).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let socket = here("/run/concur-auth/auth.sock");
    assert_eq!(lines.next().unwrap().unwrap(), format!("listening on unix:{socket}"));
    let get = |path: &str| {
        let connection = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        raw(connection, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    };
    let reply = get("/api/profile/identity/v4/Users");
    assert_eq!(status_of(&reply), 200, "{reply}");
    assert_eq!(probe(), Some(0));
    let mode = |path: &str| fs::metadata(scene.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("tokens/refreshTokenObjectFile.json"), mode("socket/auth.sock")), (0o600, 0o600));
    // All that the program writes is in the two volumes for it.
    assert_eq!(fs::read_dir(scene.path("credentials")).unwrap().count(), 1);

    scene.concur.set_fault(Fault::code(14));
    fs::remove_file(scene.path("tokens/refreshTokenObjectFile.json")).unwrap();
    let mut renewal = scene.command(&["renew", "--now"]);
    renewal.env("CONCUR_AUTH_DIR", here(&variable(sidecar, "CONCUR_AUTH_DIR")));
    renewal.env("CREDENTIALS_DIRECTORY", scene.path("credentials"));
    Ran::of(renewal.output().unwrap()).failed(1, "code 14");
    assert_eq!(probe(), Some(2));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A copy of the units with the program where it is here, for systemd looks whether it is there.
#[test]
fn systemd_accepts_the_units_and_finds_them_hardened() {
    let folder = tempfile::tempdir().unwrap();
    for name in [SERVICE, SOCKET] {
        let text = read(name).replace(INSTALLED, env!("CARGO_BIN_EXE_concur-auth"));
        fs::write(folder.path().join(Path::new(name).file_name().unwrap()), text).unwrap();
    }
    if !has(&["systemd-analyze"]) {
        return;
    }
    let analyze = |arguments: &[&str]| {
        Ran::of(Command::new("systemd-analyze").args(arguments).current_dir(folder.path()).output().unwrap())
    };
    analyze(&["verify", "./concur-auth.service", "./concur-auth.socket"]).ok();
    // From 0, nothing is exposed, to 100.
    let ran = analyze(&["security", "--offline=true", "--threshold=20", "./concur-auth.service"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// What systemd cannot see: that the units fit each other and the program.
#[test]
fn the_units_agree_on_user_group_and_socket() {
    let (service, socket) = (unit(SERVICE), unit(SOCKET));
    let one = |unit: &std::collections::HashMap<String, Vec<String>>, name: &str| match &unit[name][..] {
        [value] => value.clone(),
        values => panic!("{name}: {values:?}"),
    };
    let user = one(&service, "User");
    assert!(read("systemd/sysusers.conf").contains(&format!("u {user} - ")));
    assert_eq!((one(&service, "Group"), one(&socket, "SocketGroup")), (user.clone(), user));
    assert_eq!(
        (one(&socket, "SocketMode"), one(&service, "StateDirectoryMode")),
        ("0660".into(), "0700".into())
    );
    assert_eq!(one(&socket, "ListenStream"), "%t/concur-auth/auth.sock");
    // Users of other namespaces would all have the same number, and none could be let in.
    assert!(!service.contains_key("PrivateUsers"));
    let [sealing, credentials] = ["sealing-keys", "credentials.json"]
        .map(|name| format!("LoadCredential={name}:/etc/concur-auth/{name}"));
    assert!(read(SERVICE).contains(&format!("\n{credentials}\n")) && read(SERVICE).contains(&sealing));
    let seconds: u64 = one(&service, "TimeoutStopSec").strip_suffix('s').unwrap().parse().unwrap();
    assert!(seconds > 10);
}
