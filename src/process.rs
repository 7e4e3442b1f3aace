//! This process among others: limits, signals, and the process that started it.

use crate::exit::{Code, Failure, Outcome};

/// Raises the soft limit of open files to the hard one; RocksDB likes room, but 1024 are enough.
pub(crate) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Asks the kernel to end this process when its parent ends, however that happens.
#[cfg(target_os = "linux")]
pub(crate) fn end_with_parent() -> Outcome {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
        .map_err(|error| Failure::failed(format!("tie this process to its parent: {error}")))?;
    // The parent may have ended before the line above; then init or a reaper has adopted us.
    if nix::unistd::getppid().as_raw() == 1 {
        return Err(Failure::failed("the process that started this one is gone"));
    }
    Ok(())
}

/// Elsewhere the parent stops its children itself.
#[cfg(not(target_os = "linux"))]
pub(crate) fn end_with_parent() -> Outcome {
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM. A second signal ends the process at once with exit code 130.
pub(crate) async fn stop_signal() -> Outcome {
    wait_signal().await?;
    tokio::spawn(async {
        if wait_signal().await.is_ok() {
            eprintln!("tessera: stopped at once");
            std::process::exit(Code::Interrupted as i32);
        }
    });
    Ok(())
}

#[cfg(unix)]
async fn wait_signal() -> Outcome {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::new(Code::Failed, format!("listen for signals: {error}")))
    };
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
