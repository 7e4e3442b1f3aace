import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;
import org.tikv.common.BytePairWrapper;
import org.tikv.common.ByteWrapper;
import org.tikv.common.TiSession;
import org.tikv.common.exception.GrpcException;
import org.tikv.common.exception.KeyException;
import org.tikv.common.exception.TiBatchWriteException;
import org.tikv.common.exception.TiKVException;
import org.tikv.common.util.BackOffer;
import org.tikv.common.util.ConcreteBackOffer;
import org.tikv.kvproto.Kvrpcpb.KvPair;
import org.tikv.shade.com.google.protobuf.ByteString;
import org.tikv.txn.KVClient;
import org.tikv.txn.TwoPhaseCommitter;

/** The transactional API: this client offers the two phases themselves, and snapshots. */
final class Txn {
  /** Reads wait so long for what is in their way. */
  private static final int READ_BACKOFF_MILLIS = 20_000;
  /** This client tries a refused write again for as long as this, although a conflict stays one. */
  private static final int WRITE_BACKOFF_MILLIS = 500;
  /** It does not roll back either: others must wait for so long until they may. */
  private static final int LOCK_TTL_MILLIS = 1_000;

  /** What the keys of transactions begin with there: a mode and the number of a keyspace. */
  private static final ByteString DEFAULT_KEYSPACE = ByteString.copyFrom(new byte[] {'x', 0, 0, 0});

  private static long now(TiSession session) {
    return session.getTimestamp().getVersion();
  }

  private static BackOffer readPatience() {
    return ConcreteBackOffer.newCustomBackOff(READ_BACKOFF_MILLIS);
  }

  private static BackOffer writePatience() {
    return ConcreteBackOffer.newCustomBackOff(WRITE_BACKOFF_MILLIS);
  }

  /** Both phases; the first key is the primary. */
  private static void commit(TiSession session, long start, Map<ByteString, ByteString> pairs)
      throws Exception {
    List<byte[]> keys = new ArrayList<>();
    List<byte[]> values = new ArrayList<>();
    pairs.forEach((key, value) -> {
      keys.add(key.toByteArray());
      values.add(value.toByteArray());
    });
    byte[] primary = keys.get(0);
    try (TwoPhaseCommitter committer = new TwoPhaseCommitter(session, start, LOCK_TTL_MILLIS)) {
      committer.prewritePrimaryKey(writePatience(), primary, values.get(0));
      List<BytePairWrapper> secondaries = new ArrayList<>();
      List<ByteWrapper> names = new ArrayList<>();
      for (int n = 1; n < keys.size(); n++) {
        secondaries.add(new BytePairWrapper(keys.get(n), values.get(n)));
        names.add(new ByteWrapper(keys.get(n)));
      }
      if (!secondaries.isEmpty()) {
        committer.prewriteSecondaryKeys(primary, secondaries.iterator(), WRITE_BACKOFF_MILLIS);
      }
      long commitTs = now(session);
      committer.commitPrimaryKey(writePatience(), primary, commitTs);
      if (!names.isEmpty()) {
        committer.commitSecondaryKeys(names.iterator(), commitTs, WRITE_BACKOFF_MILLIS);
      }
    }
  }

  private static void write(TiSession session, ByteString key, String value) throws Exception {
    commit(session, now(session), Map.of(key, Raw.text(value)));
  }

  static void timestamps(TiSession session) {
    long last = 0;
    for (int n = 0; n < 100; n++) {
      long next = now(session);
      Main.ensure(Long.compareUnsigned(next, last) > 0, next + " after " + last);
      last = next;
    }
  }

  static void commitAndRead(TiSession session) throws Exception {
    Map<ByteString, ByteString> pairs = new LinkedHashMap<>();
    for (int n = 0; n < 100; n++) {
      pairs.put(Raw.key("t/crud", n), Raw.text("value " + n));
    }
    commit(session, now(session), pairs);
    try (KVClient client = session.createKVClient()) {
      long version = now(session);
      Main.ensure(client.get(Raw.key("t/crud", 7), version).equals(Raw.text("value 7")), "one key");
      List<KvPair> found =
          client.batchGet(readPatience(), new ArrayList<>(pairs.keySet()), version);
      Main.ensure(found.size() == 100, "found " + found.size() + " of 100");
      // Under API version 2 this client gives a scan's keys back with their keyspace's prefix, and compares
      // them so with the end: it must be told an end that has it as well.
      ByteString prefix = session.getConf().getApiVersion().isV2() ? DEFAULT_KEYSPACE : ByteString.EMPTY;
      List<KvPair> rows =
          client.scan(Raw.key("t/crud", 0), prefix.concat(Raw.key("t/crud", 50)), version);
      Main.ensure(rows.size() == 50, "scanned " + rows.size() + " of 50");
      for (int n = 0; n < 50; n++) {
        ByteString key = prefix.concat(Raw.key("t/crud", n));
        Main.ensure(rows.get(n).getKey().equals(key), "in order");
        Main.ensure(rows.get(n).getValue().equals(Raw.text("value " + n)), "with their values");
      }
    }
  }

  static void snapshot(TiSession session) throws Exception {
    ByteString key = Raw.text("t/snapshot");
    write(session, key, "old");
    long then = now(session);
    write(session, key, "new");
    try (KVClient client = session.createKVClient()) {
      Main.ensure(client.get(key, then).equals(Raw.text("old")), "the past is kept");
      Main.ensure(client.get(key, now(session)).equals(Raw.text("new")), "the present");
    }
  }

  static void conflict(TiSession session) throws Exception {
    ByteString key = Raw.text("t/conflict");
    long second = now(session);
    write(session, key, "first");
    boolean refused = false;
    try {
      commit(session, second, Map.of(key, Raw.text("second")));
    } catch (TiBatchWriteException | TiKVException conflict) {
      refused = true;
    }
    Main.ensure(refused, "the second writer began before the first's commit");
  }

  static void abandoned(TiSession session) throws Exception {
    ByteString key = Raw.text("t/abandoned");
    write(session, key, "before");
    // A writer that dies between its phases leaves a lock.
    TwoPhaseCommitter dead = new TwoPhaseCommitter(session, now(session), LOCK_TTL_MILLIS);
    dead.prewritePrimaryKey(writePatience(), key.toByteArray(), "never".getBytes());
    try (KVClient client = session.createKVClient()) {
      Main.ensure(client.get(key, now(session)).equals(Raw.text("before")), "the committed value");
    }
    dead.close();
  }

  static void bank(TiSession session) throws Exception {
    int accounts = 6;
    int each = 100;
    Map<ByteString, ByteString> start = new LinkedHashMap<>();
    for (int n = 0; n < accounts; n++) {
      start.put(Raw.key("t/bank", n), Raw.text(Integer.toString(each)));
    }
    commit(session, now(session), start);
    ExecutorService threads = Executors.newFixedThreadPool(4);
    List<Future<Void>> done = new ArrayList<>();
    Callable<Void> transfers = () -> {
      for (int n = 0; n < 5; ) {
        int from = ThreadLocalRandom.current().nextInt(accounts);
        int to = ThreadLocalRandom.current().nextInt(accounts);
        if (from != to && transfer(session, Raw.key("t/bank", from), Raw.key("t/bank", to))) {
          n++;
        }
      }
      return null;
    };
    for (int n = 0; n < 4; n++) {
      done.add(threads.submit(transfers));
    }
    for (Future<Void> one : done) {
      one.get();
    }
    threads.shutdown();
    int total = 0;
    try (KVClient client = session.createKVClient()) {
      long version = now(session);
      for (int n = 0; n < accounts; n++) {
        total += Integer.parseInt(client.get(Raw.key("t/bank", n), version).toStringUtf8());
      }
    }
    Main.ensure(total == accounts * each, "the sum is " + total);
  }

  private static boolean transfer(TiSession session, ByteString from, ByteString to)
      throws Exception {
    long start = now(session);
    try (KVClient client = session.createKVClient()) {
      Map<ByteString, ByteString> pairs = new LinkedHashMap<>();
      int taken = Integer.parseInt(client.get(from, start).toStringUtf8()) - 1;
      int given = Integer.parseInt(client.get(to, start).toStringUtf8()) + 1;
      pairs.put(from, Raw.text(Integer.toString(taken)));
      pairs.put(to, Raw.text(Integer.toString(given)));
      commit(session, start, pairs);
      return true;
    } catch (TiBatchWriteException | KeyException | GrpcException conflict) {
      return false; // Another was first: once more.
    }
  }

  private Txn() {}
}
