import static java.nio.charset.StandardCharsets.UTF_8;

import com.google.gson.Gson;
import com.google.gson.annotations.SerializedName;
import com.nimbusds.jose.jwk.JWK;
import com.nimbusds.jose.jwk.JWKSet;
import io.spiffe.bundle.jwtbundle.JwtBundle;
import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.bundle.x509bundle.X509Bundle;
import io.spiffe.bundle.x509bundle.X509BundleSet;
import io.spiffe.spiffeid.TrustDomain;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.svid.x509svid.X509SvidValidator;
import java.io.ByteArrayInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.CertPath;
import java.security.cert.CertPathValidator;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.PKIXParameters;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** Answers cases.json: see tests/interop/artefacts.py for the kinds of cases. */
final class Verify {
    private final Path folder;
    private final X509BundleSet x509Bundles = X509BundleSet.emptySet();
    private final JwtBundleSet jwtBundles = JwtBundleSet.emptySet();

    private Verify(Path folder) {
        this.folder = folder;
    }

    private static final class Case {
        String name;
        String kind;
        String chain;
        String key;
        String anchors;
        String token;
        String audience;
        @SerializedName("trust_domain") String trustDomain;
    }

    private static final class Document {
        @SerializedName("trust_domains") Map<String, String> trustDomains;
        List<Case> cases;
    }

    static void run(String name) throws Exception {
        Path folder = Path.of(name);
        Verify verify = new Verify(folder);
        Document document = new Gson().fromJson(Files.readString(folder.resolve("cases.json")), Document.class);
        for (Map.Entry<String, String> entry : document.trustDomains.entrySet()) {
            verify.read(TrustDomain.parse(entry.getKey()), folder.resolve(entry.getValue()));
        }
        for (Case question : document.cases) {
            Map<String, Object> line = new LinkedHashMap<>();
            line.put("case", question.name);
            try {
                String detail = verify.answer(question);
                line.put("ok", true);
                line.put("detail", detail);
            } catch (Exception refused) {
                line.put("ok", false);
                line.put("detail", refused.getClass().getSimpleName() + ": " + refused.getMessage());
            }
            Interop.say(line);
        }
    }

    /**
     * java-spiffe has no reader for a whole bundle document: JwtBundle.parse wants a kid on every key, which the standard
     * gives to JWT keys only. So nimbus reads the document and each part goes to java-spiffe by its "use".
     */
    private void read(TrustDomain trustDomain, Path file) throws Exception {
        X509Bundle x509Bundle = new X509Bundle(trustDomain);
        List<JWK> tokenKeys = new ArrayList<>();
        for (JWK key : JWKSet.parse(Files.readString(file)).getKeys()) {
            if (key.getKeyUse().identifier().equals("x509-svid")) {
                x509Bundle.addX509Authority(key.getParsedX509CertChain().get(0));
            } else if (key.getKeyUse().identifier().equals("jwt-svid")) {
                tokenKeys.add(key);
            }
        }
        x509Bundles.put(x509Bundle);
        jwtBundles.put(JwtBundle.parse(trustDomain, new JWKSet(tokenKeys).toString().getBytes(UTF_8)));
    }

    private String answer(Case question) throws Exception {
        switch (question.kind) {
            case "bundle":
                TrustDomain trustDomain = TrustDomain.parse(question.trustDomain);
                int authorities = x509Bundles.getBundleForTrustDomain(trustDomain).getX509Authorities().size();
                Set<String> kids =
                        new TreeSet<>(jwtBundles.getBundleForTrustDomain(trustDomain).getJwtAuthorities().keySet());
                return authorities + " " + String.join(",", kids) + " - -";
            case "svid":
                return X509Svid.load(folder.resolve(question.chain), folder.resolve(question.key))
                        .getSpiffeId()
                        .toString();
            case "spiffe":
                List<X509Certificate> chain = certificates(question.chain);
                X509SvidValidator.verifyChain(chain, x509Bundles);
                return spiffeId(chain.get(0));
            case "pkix":
                pkix(question);
                return "";
            case "jwt":
                return JwtSvid.parseAndValidate(question.token, jwtBundles, Set.of(question.audience))
                        .getSpiffeId()
                        .toString();
            default:
                throw new IllegalArgumentException("unknown kind " + question.kind);
        }
    }

    private void pkix(Case question) throws Exception {
        Set<TrustAnchor> anchors = new HashSet<>();
        for (X509Certificate anchor : certificates(question.anchors)) {
            anchors.add(new TrustAnchor(anchor, null));
        }
        PKIXParameters parameters = new PKIXParameters(anchors);
        parameters.setRevocationEnabled(false);
        CertPath path = CertificateFactory.getInstance("X.509").generateCertPath(certificates(question.chain));
        CertPathValidator.getInstance("PKIX").validate(path, parameters);
    }

    static String spiffeId(X509Certificate leaf) throws Exception {
        for (List<?> name : leaf.getSubjectAlternativeNames()) {
            if (name.get(0).equals(6)) {
                return (String) name.get(1);
            }
        }
        return "";
    }

    private List<X509Certificate> certificates(String file) throws Exception {
        byte[] pem = Files.readAllBytes(folder.resolve(file));
        List<X509Certificate> found = new ArrayList<>();
        for (Certificate certificate :
                CertificateFactory.getInstance("X.509").generateCertificates(new ByteArrayInputStream(pem))) {
            found.add((X509Certificate) certificate);
        }
        return found;
    }
}
