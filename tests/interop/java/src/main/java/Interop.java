import com.google.gson.Gson;
import java.util.Map;

/**
 * Reads what trustfed issues with java-spiffe and the platform's CertPathValidator.
 *
 * <pre>
 * verify FOLDER          answers FOLDER/cases.json, one JSON line per case
 * watch AUDIENCE COUNT   uses the Workload API at SPIFFE_ENDPOINT_SOCKET until it has seen COUNT X509-SVIDs
 * </pre>
 */
public final class Interop {
    private static final Gson GSON = new Gson();

    private Interop() {}

    public static void main(String[] args) throws Exception {
        if (args.length == 2 && args[0].equals("verify")) {
            Verify.run(args[1]);
        } else if (args.length == 3 && args[0].equals("watch")) {
            Watch.run(args[1], Integer.parseInt(args[2]));
        } else {
            System.err.println("usage: Interop verify FOLDER | watch AUDIENCE COUNT");
            System.exit(2);
        }
        System.exit(0); // gRPC's threads would keep the process for seconds
    }

    /** Prints one JSON line. */
    static synchronized void say(Map<String, ?> line) {
        System.out.println(GSON.toJson(line));
        System.out.flush();
    }
}
