//! Programs that know nothing of us, through the library, from the emulator.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use usrbio_emulator::{Emulator, Options};

/// The library beside this test; it is built with it.
fn library() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let found = [folder.clone(), folder.join("..")]
        .map(|place| place.join("libhf3fs_api_shared.so"))
        .into_iter()
        .find(|file| file.exists());
    found.expect("the library beside the test").canonicalize().unwrap()
}

fn emulate(mount: &Path) -> Option<Emulator> {
    if let Some(why) = usrbio_emulator::unavailable() {
        eprintln!("skipped: {why}");
        return None;
    }
    match Emulator::mount(mount, &Options::default()) {
        Ok(emulator) => Some(emulator),
        Err(e) => {
            eprintln!("skipped: cannot mount: {e}");
            None
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_library_has_its_name_and_all_functions() {
    let told = Command::new("readelf").args(["-dW", "--dyn-syms"]).arg(library()).output();
    let Ok(told) = told else {
        eprintln!("skipped: no readelf");
        return;
    };
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("soname: [libhf3fs_api_shared.so]"), "{told}");
    for name in [
        "is_hf3fs",
        "extract_mount_point",
        "iovcreate",
        "iovopen",
        "iovunlink",
        "iovdestroy",
        "iovwrap",
        "ior_size",
        "iorcreate",
        "iorcreate2",
        "iorcreate3",
        "iorcreate4",
        "iordestroy",
        "reg_fd",
        "dereg_fd",
        "io_entries",
        "prep_io",
        "submit_ios",
        "wait_for_ios",
        "hardlink",
        "punchhole",
    ] {
        let name = format!("hf3fs_{name}");
        assert!(told.lines().any(|line| line.ends_with(&format!(" {name}"))), "no {name}");
    }
}

#[test]
fn a_program_in_c_reads_and_writes() {
    let home = tempfile::tempdir().unwrap();
    let mount = home.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let Some(emulator) = emulate(&mount) else { return };
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("skipped: no C compiler");
        return;
    }
    let (here, library) = (Path::new(env!("CARGO_MANIFEST_DIR")), library());
    let (program, folder) = (home.path().join("client"), library.parent().unwrap());
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Werror", "-O1", "-I"]);
    compile.arg(here.join("include")).arg(here.join("tests/client.c"));
    run(compile.arg(&library).arg("-o").arg(&program));
    let mut client = Command::new(&program);
    client.arg(emulator.path()).env("LD_LIBRARY_PATH", folder);
    assert_eq!(run(&mut client), "ok\n");
    assert!(emulator.entries().is_empty(), "{:?}", emulator.entries());
}

#[test]
fn a_reader_of_others_loads_safetensors() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("FOREBAY_USRBIO_PYTHON")
        .map_or(here.join("../../target/usrbio-venv/bin/python"), PathBuf::from);
    if !python.exists() {
        eprintln!("skipped: no fastsafetensor-3fs-reader: tools/usrbio-emulator/consumer makes it");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let Some(emulator) = emulate(home.path()) else { return };
    let mut client = Command::new(python);
    client.arg(here.join("tests/consumer.py")).arg(emulator.path());
    client.env("HF3FS_LIB_DIR", library().parent().unwrap());
    client.env("FASTSAFETENSORS_BACKEND", "cpp");
    let told = run(&mut client);
    assert!(told.ends_with("ok\n"), "{told}");
}
