import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.tikv.common.TiSession;
import org.tikv.kvproto.Kvrpcpb.KvPair;
import org.tikv.raw.RawKVClient;
import org.tikv.shade.com.google.protobuf.ByteString;

/** The raw API: no transactions, single keys and ranges. */
final class Raw {
  static ByteString text(String text) {
    return ByteString.copyFromUtf8(text);
  }

  static ByteString key(String prefix, int number) {
    return text(String.format("%s/%05d", prefix, number));
  }

  static void crud(TiSession session) throws Exception {
    try (RawKVClient client = session.createRawClient()) {
      ByteString key = text("crud/a");
      Main.ensure(!client.get(key).isPresent(), "a key that was never written");
      for (String value : new String[] {"1", "2"}) {
        client.put(key, text(value));
        Main.ensure(client.get(key).equals(Optional.of(text(value))), "what was put");
      }
      client.delete(key);
      Main.ensure(!client.get(key).isPresent(), "a deleted key");
    }
  }

  static void batches(TiSession session) throws Exception {
    try (RawKVClient client = session.createRawClient()) {
      Map<ByteString, ByteString> pairs = new HashMap<>();
      for (int n = 0; n < 300; n++) {
        pairs.put(key("batch", n), text("v".repeat(100 + n)));
      }
      client.batchPut(pairs);
      List<ByteString> keys = new ArrayList<>(pairs.keySet());
      Map<ByteString, ByteString> found = new HashMap<>();
      for (KvPair pair : client.batchGet(keys)) {
        found.put(pair.getKey(), pair.getValue());
      }
      Main.ensure(found.equals(pairs), found.size() + " of 300 pairs");
      client.batchDelete(keys);
      Main.ensure(client.batchGet(keys).isEmpty(), "keys survived a batch delete");
    }
  }

  static void scans(TiSession session) throws Exception {
    try (RawKVClient client = session.createRawClient()) {
      for (int n = 0; n < 50; n++) {
        client.put(key("scan", n), text("value " + n));
      }
      List<KvPair> all = client.scan(key("scan", 0), key("scan", 50));
      Main.ensure(all.size() == 50, "scanned " + all.size() + " of 50");
      for (int n = 0; n < 50; n++) {
        Main.ensure(all.get(n).getKey().equals(key("scan", n)), "in order");
        Main.ensure(all.get(n).getValue().equals(text("value " + n)), "with their values");
      }
      List<KvPair> some = client.scan(key("scan", 10), key("scan", 20), 5);
      Main.ensure(some.size() == 5 && some.get(0).getKey().equals(key("scan", 10)), "the limit holds");
      Main.ensure(client.scanPrefix(text("scan/0000")).size() == 10, "a prefix");
    }
  }

  static void deleteRange(TiSession session) throws Exception {
    try (RawKVClient client = session.createRawClient()) {
      for (int n = 0; n < 30; n++) {
        client.put(key("range", n), text("x"));
      }
      client.deleteRange(key("range", 10), key("range", 20));
      List<KvPair> left = client.scan(key("range", 0), key("range", 30));
      Main.ensure(left.size() == 20, left.size() + " of 20 are left");
      Main.ensure(left.get(9).getKey().equals(key("range", 9)), "the left neighbour");
      Main.ensure(left.get(10).getKey().equals(key("range", 20)), "the right neighbour");
    }
  }

  static void timeToLive(TiSession session) throws Exception {
    try (RawKVClient client = session.createRawClient()) {
      Main.ensure(!client.getKeyTTL(text("ttl/none")).isPresent(), "no key, no time");
      client.put(text("ttl/a"), text("x"), 10);
      long left = client.getKeyTTL(text("ttl/a")).orElse(-1L);
      Main.ensure(left >= 5 && left <= 10, left + " seconds are left of 10");
      client.put(text("ttl/short"), text("x"), 1);
      while (client.get(text("ttl/short")).isPresent()) {
        Thread.sleep(50); // The check's deadline ends this when the value lives on.
      }
    }
  }

  static void compareAndSet(TiSession session) throws Exception {
    try (RawKVClient client = session.createRawClient()) {
      ByteString key = text("cas/a");
      client.delete(key);
      Main.ensure(!client.putIfAbsent(key, text("0")).isPresent(), "absent, as expected");
      Main.ensure(client.putIfAbsent(key, text("1")).equals(Optional.of(text("0"))), "present");
      boolean refused = false;
      try {
        client.compareAndSet(key, Optional.of(text("7")), text("8"));
      } catch (org.tikv.common.exception.RawCASConflictException conflict) {
        refused = true;
      }
      Main.ensure(refused, "a wrong guess is refused");
      client.compareAndSet(key, Optional.of(text("0")), text("1"));
      Main.ensure(client.get(key).equals(Optional.of(text("1"))), "the new value");
    }
  }

  private Raw() {}
}
