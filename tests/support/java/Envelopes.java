/*
 * Envelopes to KEM recipients opened and sealed by BouncyCastle, for the tests of this project.
 *
 * Each argument is one job: `open,<PKCS#8>,<envelope>,<plaintext out>` or
 * `seal,<certificate>,<plaintext>,<envelope out>`. It ends with 1 at the first that fails.
 */

import java.io.ByteArrayInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.cms.CMSAlgorithm;
import org.bouncycastle.cms.CMSAuthEnvelopedData;
import org.bouncycastle.cms.CMSAuthEnvelopedDataGenerator;
import org.bouncycastle.cms.CMSProcessableByteArray;
import org.bouncycastle.cms.RecipientInformation;
import org.bouncycastle.cms.jcajce.JceCMSContentEncryptorBuilder;
import org.bouncycastle.cms.jcajce.JceKEMAuthEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKEMRecipientInfoGenerator;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.operator.OutputAEADEncryptor;

public final class Envelopes {
    private Envelopes() {}

    public static void main(String[] jobs) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        for (String job : jobs) {
            String[] part = job.split(",");
            byte[] key = Files.readAllBytes(Path.of(part[1]));
            byte[] input = Files.readAllBytes(Path.of(part[2]));
            byte[] output = part[0].equals("open") ? open(key, input) : seal(key, input);
            Files.write(Path.of(part[3]), output);
        }
    }

    private static byte[] open(byte[] pkcs8, byte[] envelope) throws Exception {
        String algorithm =
                PrivateKeyInfo.getInstance(pkcs8).getPrivateKeyAlgorithm().getAlgorithm().getId();
        PrivateKey key =
                KeyFactory.getInstance(algorithm, "BC")
                        .generatePrivate(new PKCS8EncodedKeySpec(pkcs8));
        CMSAuthEnvelopedData data = new CMSAuthEnvelopedData(envelope);
        RecipientInformation recipient = data.getRecipientInfos().iterator().next();
        return recipient.getContent(new JceKEMAuthEnvelopedRecipient(key).setProvider("BC"));
    }

    private static byte[] seal(byte[] der, byte[] plaintext) throws Exception {
        X509Certificate certificate =
                (X509Certificate)
                        CertificateFactory.getInstance("X.509", "BC")
                                .generateCertificate(new ByteArrayInputStream(der));
        CMSAuthEnvelopedDataGenerator generator = new CMSAuthEnvelopedDataGenerator();
        generator.addRecipientInfoGenerator(
                new JceKEMRecipientInfoGenerator(certificate, CMSAlgorithm.AES256_WRAP)
                        .setKDF(
                                new AlgorithmIdentifier(
                                        PKCSObjectIdentifiers.id_alg_hkdf_with_sha256)));
        OutputAEADEncryptor encryptor =
                (OutputAEADEncryptor)
                        new JceCMSContentEncryptorBuilder(CMSAlgorithm.AES256_GCM)
                                .setProvider("BC")
                                .build();
        return generator
                .generate(new CMSProcessableByteArray(plaintext), encryptor)
                .toASN1Structure()
                .getEncoded("DER");
    }
}
