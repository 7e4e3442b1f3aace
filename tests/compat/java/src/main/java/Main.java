import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.tikv.common.TiConfiguration;
import org.tikv.common.TiSession;

/**
 * Programs of ours against the official Java client, tikv-client-java, unmodified.
 *
 * <p>The program named by the environment variable TESSERA is started as a playground on free ports,
 * for each API version. The last line counts what passed.
 */
public final class Main {
  /** No check takes this long on a slow machine; one that does hangs. */
  private static final long CHECK_TIMEOUT_SECONDS = 60;

  private static int passed;
  private static int failed;

  interface Check {
    void run(TiSession session) throws Exception;
  }

  public static void main(String[] arguments) throws Exception {
    String program = System.getenv("TESSERA");
    if (program == null) {
      System.err.println("TESSERA must name the program under test; `cargo xtask compat` sets it");
      System.exit(2);
    }
    for (String api : new String[] {"1", "2", "1ttl"}) {
      System.out.println("client-java, API " + api);
      try (Playground cluster = new Playground(program, api)) {
        runAll(cluster, api);
      } catch (Exception problem) {
        failed++;
        System.out.println("  FAILED  " + problem);
      }
    }
    System.out.println(passed + " passed, " + failed + " failed");
    System.exit(failed > 0 ? 1 : 0);
  }

  private static void runAll(Playground cluster, String api) throws Exception {
    TiConfiguration raw = TiConfiguration.createRawDefault(cluster.endpoints);
    if (api.equals("2")) {
      raw.setApiVersion(TiConfiguration.ApiVersion.V2);
    }
    try (TiSession session = TiSession.create(raw)) {
      check("raw: values come back, deletes remove", session, Raw::crud);
      check("raw: batches", session, Raw::batches);
      check("raw: scans see ranges in order", session, Raw::scans);
      check("raw: delete range leaves the neighbours", session, Raw::deleteRange);
      if (!api.equals("1")) {
        check("raw: a time to live counts down", session, Raw::timeToLive);
      }
    }
    TiConfiguration atomic = TiConfiguration.createRawDefault(cluster.endpoints);
    atomic.setEnableAtomicForCAS(true);
    if (api.equals("2")) {
      atomic.setApiVersion(TiConfiguration.ApiVersion.V2);
    }
    try (TiSession session = TiSession.create(atomic)) {
      check("raw: compare and set sets once", session, Raw::compareAndSet);
    }
    if (api.equals("1ttl")) {
      return; // Transactions are refused where raw values carry an expiry.
    }
    TiConfiguration txn = TiConfiguration.createDefault(cluster.endpoints);
    if (api.equals("2")) {
      txn.setApiVersion(TiConfiguration.ApiVersion.V2);
    }
    try (TiSession session = TiSession.create(txn)) {
      check("txn: timestamps grow", session, Txn::timestamps);
      check("txn: two phases, then reads and scans", session, Txn::commitAndRead);
      check("txn: a snapshot does not see the future", session, Txn::snapshot);
      check("txn: of two writers one is refused", session, Txn::conflict);
      check("txn: a reader resolves what a dead writer left", session, Txn::abandoned);
      check("txn: bank of 4 threads", session, Txn::bank);
    }
  }

  private static void check(String name, TiSession session, Check what) {
    ExecutorService thread = Executors.newSingleThreadExecutor();
    long start = System.nanoTime();
    try {
      Future<?> done = thread.submit(() -> {
        what.run(session);
        return null;
      });
      done.get(CHECK_TIMEOUT_SECONDS, TimeUnit.SECONDS);
      passed++;
      long took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start);
      System.out.println("  ok      " + name + " (" + took + " ms)");
    } catch (Exception problem) {
      failed++;
      System.out.println("  FAILED  " + name);
      for (Throwable cause = problem; cause != null; cause = cause.getCause()) {
        System.out.println("            " + cause);
      }
    } finally {
      thread.shutdownNow();
    }
  }

  static void ensure(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  private Main() {}
}
