import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A playground as a child process, stopped when closed. */
final class Playground implements AutoCloseable {
  /** How long a playground may take to be ready, or to stop, on a slow machine. */
  private static final long READY_TIMEOUT_SECONDS = 60;

  private final Process process;
  private final Path folder;
  /** Comma separated, as the client wants them. */
  final String endpoints;

  /** Starts the program and waits until its first write and read have gone through raft. */
  Playground(String program, String apiVersion) throws Exception {
    folder = Files.createTempDirectory("tessera-compat-java-");
    Path readyFile = folder.resolve("ready.json");
    process = new ProcessBuilder(program, "playground", "--port", "0",
            "--api-version", apiVersion, "--ready-file", readyFile.toString())
        .redirectOutput(ProcessBuilder.Redirect.DISCARD)
        .redirectError(ProcessBuilder.Redirect.DISCARD)
        .start();
    Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly));
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(READY_TIMEOUT_SECONDS);
    while (!Files.exists(readyFile)) {
      if (!process.isAlive()) {
        throw new IOException("the playground ended with " + process.exitValue() + " before it was ready");
      }
      if (System.nanoTime() > deadline) {
        process.destroyForcibly();
        throw new IOException("the playground was not ready within " + READY_TIMEOUT_SECONDS + " s");
      }
      Thread.sleep(20);
    }
    // One array of plain strings is wanted of the document.
    Matcher array = Pattern.compile("\"pd_endpoints\"\\s*:\\s*\\[([^\\]]*)\\]").matcher(Files.readString(readyFile));
    if (!array.find()) {
      throw new IOException("the ready file names no endpoints");
    }
    endpoints = array.group(1).replaceAll("[\"\\s]", "");
  }

  /** Asks the program to stop, and expects it to do so cleanly. */
  @Override
  public void close() throws Exception {
    process.destroy();
    boolean ended = process.waitFor(READY_TIMEOUT_SECONDS, TimeUnit.SECONDS);
    process.destroyForcibly();
    Files.deleteIfExists(folder.resolve("ready.json"));
    Files.deleteIfExists(folder);
    if (!ended || process.exitValue() != 0) {
      throw new IOException("the playground did not end cleanly on SIGTERM");
    }
  }
}
