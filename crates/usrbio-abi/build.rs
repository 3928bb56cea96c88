//! The name under which programs were linked against the library.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libhf3fs_api_shared.so");
}
