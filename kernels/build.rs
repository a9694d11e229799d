//! Says which archive of GPU kernels the binary carries: `MDL_CUDA_KERNELS`, or the one that is checked in.

fn main() {
    println!("cargo:rerun-if-env-changed=MDL_CUDA_KERNELS");
    let own = format!("{}/cuda/kernels.tar.gz", std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    let archive = std::env::var("MDL_CUDA_KERNELS").unwrap_or(own);
    println!("cargo:rerun-if-changed={archive}");
    println!("cargo:rustc-env=MDL_CUDA_ARCHIVE={archive}");
}
