//! The stand-in for the NVIDIA driver (`cuda/driver/README.md`): by way of cudarc, which finds it as it finds the
//! real one.
//!
//! A driver is loaded once by a process and keeps some errors until the process ends, so each test runs in a process
//! of its own: [`driven`] starts this executable again.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is all tests")]

#[path = "cuda/calls.rs"]
mod calls;
#[path = "cuda/driver.rs"]
mod driver;

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use calls::*;
use cudarc::driver::sys::{self, CUevent, CUgraph, CUgraphExec, CUstream};
use cudarc::driver::{CudaContext, result};
#[test]
fn cudarc_finds_it_and_its_safe_functions_work() {
    let said = driven("cudarc_finds_it_and_its_safe_functions_work", "memory=1G", || {
        // SAFETY: the library's initialisers only fill tables.
        assert!(unsafe { sys::is_culib_present() });
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "Stand-in GPU 0");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        assert_eq!(context.mem_get_info().unwrap(), (1 << 30, 1 << 30));
        assert!(!context.has_async_alloc());
        assert_eq!(&context.uuid().unwrap().bytes.map(|b| b as u8), b"mdl stand-in 000");
        let stream = context.new_stream().unwrap();
        let data = stream.clone_htod(&[1.0f32, 2.0, 3.0]).unwrap();
        let mut zeros = stream.alloc_zeros::<f32>(3).unwrap();
        assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0.0; 3]);
        stream.memcpy_dtod(&data, &mut zeros).unwrap();
        let start = context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        start.record(&stream).unwrap();
        assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [1.0, 2.0, 3.0]);
        let end = stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
        let error = context.check_err().and_then(|()| result::device::get(1).map(|_| ())).unwrap_err();
        assert_eq!(error.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_INVALID_DEVICE");
        drop((data, zeros, start, end, stream));
        context.synchronize().unwrap();
        drop(context);
    });
    if let Some(said) = said {
        said.has("alloc 12");
        said.has("copy DtoD 12");
        said.has("exit 0 allocations 0 bytes");
        assert_eq!(said.stderr, "");
    }
}

#[test]
fn memory_ends_where_it_ends() {
    let said = driven("memory_ends_where_it_ends", "memory=1M", || {
        begin();
        let free = || {
            let (mut free, mut total) = (0, 0);
            assert_eq!(cu!(cuMemGetInfo_v2(&mut free, &mut total)), OK);
            assert_eq!(total, 1 << 20);
            free
        };
        let mut at = 0;
        assert_eq!(cu!(cuMemAlloc_v2(&mut at, 0)), INVALID);
        assert_eq!(cu!(cuMemAlloc_v2(&mut at, (1 << 20) + 1)), OUT_OF_MEMORY);
        let (a, b) = (allocate(1000), allocate(1 << 19));
        assert_eq!(free(), (1 << 19) - 1000);
        assert_eq!(cu!(cuMemAlloc_v2(&mut at, 1 << 19)), OUT_OF_MEMORY);
        assert_eq!((a % 16, b % 16), (0, 0));

        // New memory is no number.
        assert!(floats(a, 250).iter().all(|v| v.is_nan()));
        assert_eq!(cu!(cuMemsetD32_v2(a, 1.5f32.to_bits(), 250)), OK);
        assert_eq!(cu!(cuMemcpyDtoD_v2(b + 8, a, 1000)), OK);
        assert_eq!(floats(b + 4, 3)[1..], [1.5, 1.5]);

        // Beyond the end, below the start, host for device and device for host, onto itself.
        let mut room = [0u8; 1001];
        let host = room.as_mut_ptr();
        assert_eq!(cu!(cuMemcpyDtoH_v2(host.cast(), a, 1001)), INVALID);
        assert_eq!(cu!(cuMemcpyHtoD_v2(a - 1, host.cast(), 8)), INVALID);
        assert_eq!(cu!(cuMemcpyHtoD_v2(host as u64, host.cast(), 8)), INVALID);
        assert_eq!(cu!(cuMemcpyDtoH_v2(a as *mut c_void, b, 8)), INVALID);
        assert_eq!(cu!(cuMemcpyDtoD_v2(b, b + 4, 8)), INVALID);
        assert_eq!(cu!(cuMemsetD8_v2(a + 1, 0, 1000)), INVALID);
        assert_eq!(cu!(cuMemFree_v2(a + 16)), INVALID);

        assert_eq!(cu!(cuMemFree_v2(a)), OK);
        assert_eq!(cu!(cuMemFree_v2(a)), INVALID);
        assert_eq!(cu!(cuMemFree_v2(0)), OK);
        assert_eq!(cu!(cuMemcpyDtoH_v2(host.cast(), a, 4)), INVALID);
        assert_eq!(free(), 1 << 19);
        // An address is used once.
        assert_ne!(allocate(1000), a);

        let mut pinned = null_mut();
        assert_eq!(cu!(cuMemAllocHost_v2(&mut pinned, 100)), OK);
        assert_eq!(report().host_allocations, 1);
        assert_eq!(cu!(cuMemFreeHost(pinned)), OK);
        assert_eq!(cu!(cuMemFreeHost(pinned)), INVALID);

        // Without a context nothing can be allocated; what it had is lost with it.
        assert_eq!(cu!(cuDevicePrimaryCtxRelease_v2(0)), OK);
        assert_eq!(cu!(cuMemAlloc_v2(&mut at, 1)), 709);
        assert_eq!(cu!(cuCtxSetCurrent(null_mut())), OK);
        assert_eq!(cu!(cuMemAlloc_v2(&mut at, 1)), 201);
        let report = report();
        assert_eq!((report.allocations, report.bytes), (2, 1000 + (1 << 19)));
        assert_eq!(report.peak_bytes, 1000 + (1 << 19));
    });
    if let Some(said) = said {
        said.has("free 1000");
        said.has("error cuMemAlloc_v2 2");
        said.has("exit 2 allocations 525288 bytes");
        assert!(
            said.stderr.contains("1000 bytes to fill at byte 1 of an allocation of 1000 bytes"),
            "{}",
            said.stderr
        );
        assert!(
            said.stderr.contains("byte 0 of an allocation of 1000 bytes that is freed"),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn kernels_run() {
    let said = driven("kernels_run", "", || {
        begin();
        let (x, out) = (upload(&[1.0; 300]), upload(&[10.0; 300]));
        assert_eq!(add(function("add"), x, out, 300, 0.5, null_mut()), OK);
        assert_eq!(floats(out, 300), [10.5; 300]);

        // A kernel of warps: 64 values become blocks of 32 with a scale each.
        let values: Vec<f32> = (0..64).map(|i| i as f32 - 31.5).collect();
        let (x, q, meta, n) = (upload(&values), allocate(8 * 64), allocate(2 * 64), 64i32);
        let args = [argument(&x), argument(&q), argument(&meta), argument(&n)];
        let mut config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 256,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: null_mut(),
            attrs: null_mut(),
            numAttrs: 0,
        };
        let f = function("quantize");
        assert_eq!(cu!(cuLaunchKernelEx(&config, f, args.as_ptr().cast_mut(), null_mut())), OK);
        let bytes: Vec<u8> = floats(q, 128).iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert!(bytes.iter().any(|&b| b as i8 == -127) && bytes.iter().any(|&b| b as i8 == 127));
        config.gridDimX = 0;
        assert_eq!(cu!(cuLaunchKernelEx(&config, f, args.as_ptr().cast_mut(), null_mut())), INVALID);
        assert_eq!(report().launches, 2);
    });
    if let Some(said) = said {
        said.has("module load ptx 2 kernels");
        said.has("launch add grid 2 1 1 block 256 1 1 shared 0");
        said.has("launch quantize grid 1 1 1 block 256 1 1 shared 0");
    }
}

#[test]
fn launches_hold_to_their_bounds() {
    driven("launches_hold_to_their_bounds", "", || {
        begin();
        let (f, x) = (function("add"), upload(&[1.0; 32]));
        let (n, factor) = (32i32, 1.0f32);
        let args = [argument(&x), argument(&x), argument(&n), argument(&factor)];
        let on = null_mut();
        assert_eq!(launch(f, [0, 1], 256, 0, on, &args), INVALID);
        assert_eq!(launch(f, [1, 65536], 256, 0, on, &args), INVALID);
        assert_eq!(launch(f, [1, 1], 2048, 0, on, &args), INVALID);
        assert_eq!(launch(f, [1, 1], 512, 0, on, &args), 701);
        assert_eq!(launch(f, [1, 1], 256, 0, on, &[null_mut(); 4]), INVALID);
        assert_eq!(launch(null_mut(), [1, 1], 256, 0, on, &args), BAD_HANDLE);

        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(launch(f, [1, 1], 256, 48 << 10, on, &args), OK);
        assert_eq!(launch(f, [1, 1], 256, (48 << 10) + 1, on, &args), INVALID);
        assert_eq!(cu!(cuFuncSetAttribute(f, most, (227 << 10) + 1)), INVALID);
        assert_eq!(cu!(cuFuncSetAttribute(f, most, 227 << 10)), OK);
        assert_eq!(launch(f, [1, 1], 256, 227 << 10, on, &args), OK);
        assert_eq!(launch(f, [1, 1], 256, (227 << 10) + 1, on, &args), INVALID);

        let get = |f, attribute| {
            let mut value = 0;
            assert_eq!(cu!(cuFuncGetAttribute(&mut value, attribute, f)), OK);
            value
        };
        assert_eq!(get(f, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 256);
        assert_eq!(get(f, most), 227 << 10);
        // The static part counts too.
        let f = function("attention_prefill_128");
        let fixed = get(f, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
        assert_eq!(get(f, most), (48 << 10) - fixed);
        let mut blocks = 0;
        assert_eq!(cu!(cuFuncSetAttribute(f, most, 64 << 10)), OK);
        assert_eq!(cu!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, f, 128, 64 << 10)), OK);
        assert!((1..=3).contains(&blocks), "{blocks}");
    });
}

#[test]
fn a_kernel_that_leaves_its_memory_ends_all() {
    let said = driven("a_kernel_that_leaves_its_memory_ends_all", "", || {
        begin();
        let (f, x) = (function("add"), upload(&[1.0; 64]));
        let out = upload(&[1.0; 32]);
        assert_eq!(add(f, x, out, 32, 1.0, null_mut()), OK);
        assert_eq!(add(f, x, out, 64, 1.0, null_mut()), ILLEGAL_ADDRESS);
        let mut at = 0;
        assert_eq!(cu!(cuMemAlloc_v2(&mut at, 4)), ILLEGAL_ADDRESS);
        assert_eq!(cu!(cuCtxSynchronize()), ILLEGAL_ADDRESS);
    });
    if let Some(said) = said {
        said.has("error cuLaunchKernel 700");
        let expected =
            "add touched 0 bytes behind the end of an allocation of 128 bytes (thread 32 of block 0 0 0)";
        assert!(said.stderr.contains(expected), "{}", said.stderr);
    }
}

#[test]
fn a_kernel_must_not_get_what_is_freed() {
    let said = driven("a_kernel_must_not_get_what_is_freed", "", || {
        begin();
        let (f, x, out) = (function("add"), upload(&[1.0; 64]), upload(&[1.0; 64]));
        assert_eq!(cu!(cuMemFree_v2(x)), OK);
        assert_eq!(add(f, x, out, 64, 1.0, null_mut()), ILLEGAL_ADDRESS);
    });
    if let Some(said) = said {
        assert!(
            said.stderr.contains("add: argument 0 is byte 0 of an allocation of 256 bytes that is freed")
        );
    }
}

#[test]
fn what_is_written_beside_an_allocation_is_found() {
    let said = driven("what_is_written_beside_an_allocation_is_found", "", || {
        begin();
        // 250 values end before the next sixteen bytes do.
        let (f, x, out) = (function("add"), upload(&[1.0; 251]), upload(&[1.0; 250]));
        assert_eq!(add(f, x, out, 251, 1.0, null_mut()), OK);
        assert_eq!(cu!(cuMemFree_v2(x)), OK);
        assert_eq!(cu!(cuMemFree_v2(out)), ILLEGAL_ADDRESS);
    });
    if let Some(said) = said {
        assert!(
            said.stderr.contains("something wrote beside an allocation of 1000 bytes"),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn a_block_that_the_shim_refuses_fails() {
    let said = driven("a_block_that_the_shim_refuses_fails", "", || {
        begin();
        let (f, x) = (function("add"), upload(&[1.0; 32]));
        let (n, factor) = (32i32, 1.0f32);
        let args = [argument(&x), argument(&x), argument(&n), argument(&factor)];
        assert_eq!(launch(f, [1, 1], 33, 0, null_mut(), &args), 719);
        assert_eq!(cu!(cuCtxSynchronize()), 719);
    });
    if let Some(said) = said {
        assert!(said.stderr.contains("add: a block of 33 threads"), "{}", said.stderr);
    }
}

#[test]
fn images_must_suit() {
    let said = driven("images_must_suit", "capability=8.6,version=12020", || {
        begin();
        assert_eq!(load(c"nothing").unwrap_err(), 200);
        assert_eq!(load(&ptx("8.2", "sm_90", &["add"])).unwrap_err(), 209);
        assert_eq!(load(&ptx("8.3", "sm_80", &["add"])).unwrap_err(), 222);
        let module = load(&ptx("8.2", "sm_80", &["add", "unknown"])).unwrap();
        let mut f = null_mut();
        let mut find = |name: &CStr| cu!(cuModuleGetFunction(&mut f, module, name.as_ptr()));
        assert_eq!(find(c"add"), OK);
        // In the image and not in the sources; in the sources and not in the image.
        assert_eq!(find(c"unknown"), 500);
        assert_eq!(find(c"quantize"), 500);
        assert_eq!(cu!(cuModuleUnload(module)), OK);
        let x = upload(&[1.0]);
        assert_eq!(add(f, x, x, 1, 1.0, null_mut()), BAD_HANDLE);
        assert_eq!(cu!(cuModuleUnload(module)), BAD_HANDLE);
    });
    if let Some(said) = said {
        assert!(said.stderr.contains("unknown is in the image, but not in kernels/cuda"), "{}", said.stderr);
    }
}

#[test]
fn a_graph_repeats_what_was_captured() {
    let said = driven("a_graph_repeats_what_was_captured", "", || {
        begin();
        let (f, on, other) = (function("add"), stream(1), stream(1));
        let (x, out, doubled) = (upload(&[1.0; 8]), upload(&[0.0; 8]), upload(&[0.0; 8]));
        let (mut graph, mut exec, mut status): (CUgraph, CUgraphExec, _) =
            (null_mut(), null_mut(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
        let mut joint: CUevent = null_mut();
        assert_eq!(cu!(cuEventCreate(&mut joint, 2)), OK);
        let global = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        assert_eq!(cu!(cuStreamBeginCapture_v2(on, global)), OK);
        assert_eq!(cu!(cuStreamIsCapturing(on, &mut status)), OK);
        assert_eq!(status as u32, 1);
        assert_eq!(add(f, x, out, 8, 2.0, on), OK);
        // A second stream joins, and comes back.
        assert_eq!(cu!(cuEventRecord(joint, on)), OK);
        assert_eq!(cu!(cuStreamWaitEvent(other, joint, 0)), OK);
        assert_eq!(cu!(cuMemsetD8Async(doubled, 0, 32, other)), OK);
        assert_eq!(cu!(cuEventRecord(joint, other)), OK);
        assert_eq!(cu!(cuStreamWaitEvent(on, joint, 0)), OK);
        assert_eq!(add(f, out, doubled, 8, 2.0, on), OK);
        assert_eq!(cu!(cuStreamEndCapture(on, &mut graph)), OK);
        // Nothing has run, and the launch has kept its arguments.
        assert_eq!(floats(out, 8), [0.0; 8]);
        assert_eq!(cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0)), OK);
        assert_eq!(cu!(cuGraphDestroy(graph)), OK);
        for (value, expected) in [(1.0, 2.0), (10.0, 22.0)] {
            write(x, &[value; 8]);
            assert_eq!(cu!(cuGraphLaunch(exec, on)), OK);
            assert_eq!(floats(doubled, 8), [2.0 * expected; 8]);
        }
        assert_eq!(report().launches, 4);

        // A graph that uses what is freed.
        assert_eq!(cu!(cuMemFree_v2(out)), OK);
        assert_eq!(cu!(cuGraphLaunch(exec, on)), ILLEGAL_ADDRESS);
    });
    if let Some(said) = said {
        said.has("capture begin");
        said.has("captured launch add grid 1 1 1 block 256 1 1 shared 0");
        said.has("captured memset 32");
        said.has("capture end 3");
        said.has("graph launch 3");
    }
}

#[test]
fn a_capture_forbids_what_it_must() {
    driven("a_capture_forbids_what_it_must", "", || {
        begin();
        let (on, blocking, other) = (stream(1), stream(0), stream(1));
        let (f, x) = (function("add"), upload(&[1.0; 8]));
        let [global, of_thread, relaxed] = [
            sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL,
            sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
        ];
        // What fails within a capture, and what the end of the capture says then.
        let within = |on: CUstream, mode, body: &mut dyn FnMut() -> u32| {
            let (mut graph, mut exec) = (null_mut(), null_mut());
            assert_eq!(cu!(cuStreamBeginCapture_v2(on, mode)), OK);
            let code = body();
            let end = cu!(cuStreamEndCapture(on, &mut graph));
            assert_eq!(end == OK, !graph.is_null());
            assert_eq!(cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0)) == OK, end == OK);
            (code, end)
        };
        let mut at = 0;
        let mut values = [0.0f32; 8];
        let room = values.as_mut_ptr().cast::<c_void>();
        assert_eq!(within(on, global, &mut || cu!(cuMemAlloc_v2(&mut at, 4))), (900, 901));
        assert_eq!(within(on, of_thread, &mut || cu!(cuMemFree_v2(x))), (900, 901));
        assert_eq!(within(on, global, &mut || cu!(cuMemcpyDtoH_v2(room, x, 32))), (900, 901));
        assert_eq!(within(on, relaxed, &mut || cu!(cuMemcpyDtoH_v2(room, x, 32))), (OK, OK));
        assert_eq!(within(blocking, relaxed, &mut || cu!(cuMemcpyDtoH_v2(room, x, 32))), (906, 901));
        assert_eq!(within(on, relaxed, &mut || cu!(cuStreamSynchronize(on))), (900, 901));
        assert_eq!(within(on, global, &mut || cu!(cuMemcpyDtoHAsync_v2(room, x, 32, on))), (900, 901));
        assert_eq!(within(blocking, global, &mut || add(f, x, x, 8, 1.0, null_mut())), (906, 901));
        assert_eq!(within(on, global, &mut || cu!(cuStreamBeginCapture_v2(on, global))), (401, OK));
        let another_thread = || {
            std::thread::scope(|s| {
                s.spawn(|| {
                    begin();
                    cu!(cuMemFree_v2(1))
                })
                .join()
                .unwrap()
            })
        };
        assert_eq!(within(on, of_thread, &mut || another_thread()), (INVALID, OK));
        assert_eq!(within(on, global, &mut || another_thread()), (900, 901));
        // After an error nothing more is captured.
        let mut late = || [cu!(cuCtxSynchronize()), add(f, x, x, 8, 1.0, on)][1];
        assert_eq!(within(on, global, &mut late), (901, 901));

        let (mut old, mut joint) = (null_mut(), null_mut());
        assert_eq!(cu!(cuEventCreate(&mut old, 2)), OK);
        assert_eq!(cu!(cuEventCreate(&mut joint, 2)), OK);
        assert_eq!(cu!(cuEventRecord(old, other)), OK);
        assert_eq!(within(on, global, &mut || cu!(cuStreamWaitEvent(on, old, 0))), (905, 901));
        let mut fork = || {
            assert_eq!(cu!(cuEventRecord(joint, on)), OK);
            assert_eq!(cu!(cuStreamWaitEvent(other, joint, 0)), OK);
            add(f, x, x, 8, 1.0, other)
        };
        assert_eq!(within(on, global, &mut fork), (OK, 904));
        assert_eq!(cu!(cuEventQuery(joint)), 907);
        assert_eq!(cu!(cuStreamBeginCapture_v2(null_mut(), global)), 900);
        assert_eq!(cu!(cuStreamEndCapture(on, null_mut())), INVALID);
        assert_eq!(floats(x, 8), [1.0; 8]);
    });
}

#[test]
fn lazy_work_is_done_when_someone_waits() {
    let said = driven("lazy_work_is_done_when_someone_waits", "lazy", || {
        begin();
        let (f, on) = (function("add"), stream(1));
        let (x, out) = (upload(&[1.0; 8]), upload(&[0.0; 8]));
        let mut pinned = null_mut();
        assert_eq!(cu!(cuMemAllocHost_v2(&mut pinned, 32)), OK);
        let pinned = pinned.cast::<f32>();
        // SAFETY: the memory has eight values, which the driver has not given to anyone else.
        let seen = || unsafe { pinned.read() };
        // SAFETY: as above.
        unsafe { pinned.write_bytes(0, 8) };
        let mut done = null_mut();
        assert_eq!(cu!(cuEventCreate(&mut done, 0)), OK);
        assert_eq!(add(f, x, out, 8, 3.0, on), OK);
        assert_eq!(cu!(cuMemcpyDtoHAsync_v2(pinned.cast(), out, 32, on)), OK);
        assert_eq!(cu!(cuEventRecord(done, on)), OK);
        assert_eq!(seen(), 0.0);
        assert_eq!(cu!(cuEventQuery(done)), 600);
        assert_eq!(cu!(cuEventQuery(done)), OK);
        assert_eq!(seen(), 3.0);
        // What is copied from pageable memory is what it was at the call.
        let mut values = [7.0f32; 8];
        assert_eq!(cu!(cuMemcpyHtoDAsync_v2(out, values.as_ptr().cast(), 32, on)), OK);
        values.fill(8.0);
        assert_eq!(floats(out, 8), [7.0; 8]);
        assert_eq!(values[0], 8.0);
        // An error comes with the wait.
        assert_eq!(add(f, x, out, 16, 1.0, on), OK);
        assert_eq!(cu!(cuStreamSynchronize(on)), ILLEGAL_ADDRESS);
    });
    if let Some(said) = said {
        said.has("wait");
    }
}

#[test]
fn calls_fail_when_told_to() {
    let settings =
        "fail=cuMemAlloc_v2@3:2,fail=cuStreamCreate@2-2:304,fail=cuLaunchKernel:719,version=12040,devices=2";
    let said = driven("calls_fail_when_told_to", settings, || {
        begin();
        let mut version = 0;
        assert_eq!(cu!(cuDriverGetVersion(&mut version)), OK);
        assert_eq!(version, 12040);
        let mut count = 0;
        assert_eq!(cu!(cuDeviceGetCount(&mut count)), OK);
        assert_eq!(count, 2);
        let mut at = 0;
        let mut codes = |_| cu!(cuMemAlloc_v2(&mut at, 64));
        assert_eq!([0; 4].map(&mut codes), [OK, OK, OUT_OF_MEMORY, OUT_OF_MEMORY]);
        let mut on = null_mut();
        let mut codes = |_| cu!(cuStreamCreate(&mut on, 0));
        assert_eq!([0; 3].map(&mut codes), [OK, 304, OK]);
        assert_eq!(add(function("add"), at, at, 1, 1.0, null_mut()), 719);
        // Only what was named fails.
        assert_eq!(cu!(cuCtxSynchronize()), OK);
    });
    if let Some(said) = said {
        said.has("error cuMemAlloc_v2 2");
        said.has("exit 2 allocations 128 bytes");
        assert_eq!(said.stderr, "");
    }
}

#[test]
fn there_may_be_no_device() {
    driven("there_may_be_no_device", "devices=0", || {
        assert_eq!(cu!(cuInit(0)), 100);
        let mut count = 0;
        assert_eq!(cu!(cuDeviceGetCount(&mut count)), 3);
        let mut words = null();
        assert_eq!(cu!(cuGetErrorString(sys::CUresult::CUDA_ERROR_NO_DEVICE, &mut words)), OK);
        // SAFETY: the driver gave the address of a constant.
        assert_eq!(unsafe { CStr::from_ptr(words) }, c"no CUDA-capable device is detected");
    });
}

#[test]
fn the_devices_that_may_be_seen_are_obeyed() {
    let test = "the_devices_that_may_be_seen_are_obeyed";
    driven(test, "devices=3,capability=8.9,multiprocessors=58", || {
        // SAFETY: no other thread reads the environment now.
        unsafe { std::env::set_var("CUDA_VISIBLE_DEVICES", "2,0,7,1") };
        begin();
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "Stand-in GPU 2");
        assert_eq!(context.compute_capability().unwrap(), (8, 9));
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        assert_eq!(context.attribute(count).unwrap(), 58);
        // Memory of another device is none of a kernel's.
        let x = upload(&[1.0; 8]);
        let other = CudaContext::new(1).unwrap();
        other.bind_to_thread().unwrap();
        let y = upload(&[1.0; 8]);
        assert_eq!(cu!(cuMemcpyDtoD_v2(y, x, 32)), OK);
        assert_eq!(add(function("add"), x, y, 8, 1.0, null_mut()), ILLEGAL_ADDRESS);
    });
}
