// One POST with the JDK's own HTTP client: the URL and headers as curl takes them as arguments, the body on
// standard input. Prints what `curl --include` prints, each line as soon as it is there.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

class Fetch {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(arguments[0]));
        for (int at = 2; at < arguments.length; at += 2) {
            var parts = arguments[at].split(": ", 2);
            request.header(parts[0], parts[1]);
        }
        request.POST(BodyPublishers.ofByteArray(System.in.readAllBytes()));
        try {
            var answer = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofLines());
            System.out.println("HTTP " + answer.statusCode());
            answer.headers().map().forEach((name, values) -> values.forEach(value -> System.out.println(name + ": " + value)));
            System.out.println();
            answer.body().forEach(System.out::println);
        } catch (java.io.IOException failure) {
            System.err.println(failure);
            System.exit(1);
        }
    }
}
