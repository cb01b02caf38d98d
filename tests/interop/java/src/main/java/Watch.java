import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.bundle.x509bundle.X509BundleSet;
import io.spiffe.exception.JwtSvidException;
import io.spiffe.spiffeid.TrustDomain;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.svid.x509svid.X509SvidValidator;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** Uses every method of the Workload API, then watches its X509-SVID rotate. */
final class Watch {
    private static final int PATIENCE_SECONDS = 60;

    private Watch() {}

    static void run(String audience, int count) throws Exception {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
            X509BundleSet x509Bundles = client.fetchX509Bundles();
            Interop.say(Map.of("event", "x509-bundles", "bundles", names(x509Bundles.getBundles().keySet())));
            JwtBundleSet jwtBundles = client.fetchJwtBundles();
            Interop.say(Map.of("event", "jwt-bundles", "bundles", names(jwtBundles.getBundles().keySet())));

            JwtSvid svid = client.fetchJwtSvid(audience);
            JwtSvid local = JwtSvid.parseAndValidate(svid.getToken(), jwtBundles, Set.of(audience));
            JwtSvid validated = client.validateJwtSvid(svid.getToken(), audience);
            Interop.say(Map.of("event", "jwt", "id", svid.getSpiffeId().toString(), "local",
                    local.getSpiffeId().toString(), "validated", validated.getSpiffeId().toString()));
            String refusal = "";
            try {
                client.validateJwtSvid(svid.getToken(), audience + "/another");
            } catch (JwtSvidException refused) {
                refusal = String.valueOf(refused.getCause() == null ? refused : refused.getCause());
            }
            Interop.say(Map.of("event", "jwt-refused", "refused", !refusal.isEmpty(), "detail", refusal));

            Rotations rotations = new Rotations(count);
            client.watchX509Context(rotations);
            boolean seen = rotations.enough.await(PATIENCE_SECONDS, TimeUnit.SECONDS);
            if (!seen || rotations.failed != null) {
                throw new IllegalStateException("saw " + rotations.serials.size() + " SVIDs of " + count,
                        rotations.failed);
            }
        }
    }

    private static List<String> names(Collection<TrustDomain> trustDomains) {
        return trustDomains.stream().map(TrustDomain::getName).sorted().collect(Collectors.toList());
    }

    /** Prints a line for each push with a new SVID or other bundles, and verifies the SVID against these bundles. */
    private static final class Rotations implements Watcher<X509Context> {
        private final Set<String> serials = new HashSet<>();
        private final int count;
        private String last = "";
        final CountDownLatch enough = new CountDownLatch(1);
        volatile Exception failed;

        Rotations(int count) {
            this.count = count;
        }

        @Override
        public synchronized void onUpdate(X509Context update) {
            X509Svid svid = update.getDefaultSvid();
            String serial = String.format("%032x", svid.getLeaf().getSerialNumber());
            List<String> bundles = names(update.getX509BundleSet().getBundles().keySet());
            serials.add(serial);
            try {
                int authorities = update.getX509BundleSet()
                        .getBundleForTrustDomain(svid.getSpiffeId().getTrustDomain())
                        .getX509Authorities()
                        .size();
                if (last.equals(serial + bundles + authorities)) {
                    return;
                }
                last = serial + bundles + authorities;
                X509SvidValidator.verifyChain(svid.getChain(), update.getX509BundleSet());
                Interop.say(Map.of("event", "x509", "id", svid.getSpiffeId().toString(), "serial", serial, "bundles",
                        bundles, "authorities", authorities, "chain", svid.getChain().size()));
            } catch (Exception refused) {
                failed = refused;
                enough.countDown();
            }
            if (serials.size() >= count) {
                enough.countDown();
            }
        }

        @Override
        public void onError(Throwable error) {
            Interop.say(Map.of("event", "error", "detail", String.valueOf(error)));
        }
    }
}
